"use strict";
const drawn = new Map(); // of each room: its figure

// -- theme ---------------------------------------------------------------------------
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dress = (plot) => {
  const ink = colour("--ink"), soft = colour("--soft"), rule = colour("--rule");
  for (const model of plot.references()) {
    if (/Axis$/.test(model.type)) {
      model.setv({ axis_label_text_color: ink, major_label_text_color: soft, axis_line_color: rule,
        major_tick_line_color: rule, minor_tick_line_color: rule, axis_label_text_font_style: "normal", axis_label_text_font_size: "12px" });
    } else if (model.type === "Legend") model.setv({ label_text_color: ink, background_fill_alpha: 0, border_line_color: null, click_policy: "hide", label_text_font_size: "12px", padding: 0, margin: 2 });
    else if (model.type === "Grid") model.setv({ grid_line_color: rule });
  }
  plot.setv({ outline_line_color: rule });
};
const dress_all = () => drawn.forEach(dress);
const toggle_theme = () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("flatcal-theme", document.documentElement.dataset.theme); } catch (error) { /* kept for this view alone */ }
  dress_all();
};
document.getElementById("theme").addEventListener("click", toggle_theme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress_all);
// Figures are drawn, not styled: for paper they need the colours of the light theme.
let before_print;
addEventListener("beforeprint", () => {
  before_print = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  dress_all();
});
addEventListener("afterprint", () => {
  if (before_print) document.documentElement.dataset.theme = before_print;
  else delete document.documentElement.dataset.theme;
  dress_all();
});

// -- figures -------------------------------------------------------------------------
const { ndarray } = Bokeh.require("core/util/ndarray");
// Told apart by those who do not see red from green, on white and on black.
const colours = ["#3b8fd9", "#e0862a", "#3aa876", "#c763b0", "#8f8a35", "#8c7be0"];
const greys = Array.from({ length: 256 }, (_, level) => "#" + level.toString(16).padStart(2, "0").repeat(3));
const common = { tools: "pan,box_zoom,wheel_zoom,reset,save", active_scroll: null, sizing_mode: "stretch_width",
  toolbar_location: "above", background_fill_alpha: 0, border_fill_alpha: 0, min_border: 4 };
const figure = (options) => {
  const plot = Bokeh.Plotting.figure({ ...common, ...options });
  plot.toolbar.setv({ logo: null, autohide: true });
  return plot;
};
const shade = (edges) => new Bokeh.BoxAnnotation({ ...edges, fill_color: colours[2], fill_alpha: 0.15, line_color: null });

const make_plot = (item) => {
  const options = { height: 270, x_axis_type: item.time ? "datetime" : "auto", y_axis_type: item.log ? "log" : "auto",
    x_axis_label: item.labels[0], y_axis_label: item.labels[1] };
  if (item.range) options.y_range = new Bokeh.Range1d({ start: item.range[0], end: item.range[1] });
  const plot = figure(options);
  if (item.span) plot.add_layout(shade({ left: item.span[0], right: item.span[1] }));
  if (item.band) plot.add_layout(shade({ bottom: item.band[0], top: item.band[1] }));
  const entries = [];
  item.lines.forEach((line, i) => {
    const kept = line.x.map((_, k) => k).filter((k) => line.y[k] !== null && (!item.log || line.y[k] > 0));
    const data = { x: kept.map((k) => line.x[k]), y: kept.map((k) => line.y[k]) };
    if (item.names.length) data.name = kept.map((k) => item.names[k]);
    const source = new Bokeh.ColumnDataSource({ data });
    const look = { source, color: colours[i % colours.length] };
    const drawing = item.dots || line.x.length <= 20 ? plot.scatter({ field: "x" }, { field: "y" }, { ...look, size: 7 })
      : plot.line({ field: "x" }, { field: "y" }, { ...look, line_width: 1.7 });
    if (line.label) entries.push(new Bokeh.LegendItem({ label: { value: line.label }, renderers: [drawing] }));
  });
  if (entries.length) plot.add_layout(new Bokeh.Legend({ items: entries, orientation: "horizontal" }), "above");
  for (const axis of plot.references()) {
    if (axis.type === "DatetimeAxis") axis.formatter.setv({ seconds: "%H:%M:%S", minsec: "%H:%M:%S", minutes: "%H:%M", hourmin: "%H:%M", hours: "%H:%M", days: "%d %b" });
  }
  if (item.names.length) plot.add_tools(new Bokeh.HoverTool({ tooltips: [["", "@name"], ["", "@y"]] }));
  return plot;
};

// -- pictures ------------------------------------------------------------------------
const values_of = (item) => {
  item.pixels ??= new Float32Array(Uint8Array.from(atob(item.values), (c) => c.charCodeAt(0)).buffer);
  return item.pixels;
};
const columns_of = (item) => {
  const [rows, columns] = item.shape;
  return { image: [ndarray(values_of(item), { shape: item.shape, dtype: "float32" })], x: [item.first[0] - 0.5], y: [item.first[1] - 0.5], dw: [columns * item.block], dh: [rows * item.block] };
};
const draw_image = (item) => {
  const data = columns_of(item), [x, y, dw, dh] = ["x", "y", "dw", "dh"].map((name) => data[name][0]);
  const plot = figure({ height: 300, active_drag: "pan", x_range: new Bokeh.Range1d({ start: x, end: x + dw }), y_range: new Bokeh.Range1d({ start: y, end: y + dh }) });
  item.mapper = new Bokeh.LinearColorMapper({ palette: greys, low: 0, high: 1, nan_color: "#cc3344" });
  item.source = new Bokeh.ColumnDataSource({ data });
  plot.image({ image: { field: "image" }, x: { field: "x" }, y: { field: "y" }, dw: { field: "dw" }, dh: { field: "dh" }, source: item.source, color_mapper: item.mapper });
  if (item.marks.length) plot.scatter(item.marks.map((mark) => mark[0]), item.marks.map((mark) => mark[1]), { size: 9, fill_color: null, line_color: colours[1], line_width: 1.3 });
  return plot;
};
const percentile = (item, part) => {
  item.sorted ??= values_of(item).filter(Number.isFinite).sort();
  return item.sorted[Math.round((item.sorted.length - 1) * part / 100)] ?? 0;
};
const stretch = (panel, item) => {
  const low = percentile(item, Number(panel.querySelector(".black").value));
  let high = percentile(item, Number(panel.querySelector(".white").value));
  if (!(high > low)) high = low + Math.max(1e-6, Math.abs(low) * 1e-6);
  item.mapper.setv({ low, high });
  panel.querySelector(".stretch").textContent = `${low.toPrecision(5)} to ${high.toPrecision(5)} ${item.unit}`;
};
const read = (panel, item, x, y) => {
  const [rows, columns] = item.shape, { block, first } = item, out = panel.querySelector(".readout");
  const column = Math.floor((x + 0.5 - first[0]) / block), row = Math.floor((y + 0.5 - first[1]) / block);
  if (!(row >= 0 && column >= 0 && row < rows && column < columns)) { out.textContent = "outside of the image"; return; }
  const value = values_of(item)[row * columns + column];
  const shown = Number.isFinite(value) ? `${Number(value.toPrecision(8))} ${item.unit}`.trim() : "no number";
  const left = first[0] + column * block, low = first[1] + row * block;
  out.textContent = block === 1 ? `x ${left} y ${low}: ${shown}`
    : `x ${left} to ${left + block - 1} y ${low} to ${low + block - 1}: ${shown} on average`;
};
// Square pixels: the height that the width asks for, axes and tool bar included.
const fit = (room, plot, shape) => {
  const width = room.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(room.parentElement).paddingLeft) - 50;
  const height = Math.min(width * shape[0] / shape[1], Math.max(400, 0.72 * innerHeight));
  room.style.maxWidth = `${Math.round(height * shape[1] / shape[0]) + 50}px`;
  plot.setv({ height: Math.round(height) + 60 });
};
const make_picture = (panel, room, item) => {
  const plot = draw_image(item);
  fit(room, plot, item.shape);
  new ResizeObserver(() => fit(room, plot, item.shape)).observe(panel);
  for (const name of ["mousemove", "tap"]) plot.on_event(name, (event) => read(panel, item, event.x, event.y));
  for (const name of [".black", ".white"]) panel.querySelector(name).addEventListener("input", () => stretch(panel, item));
  const x = panel.querySelector(".x"), y = panel.querySelector(".y");
  for (const field of [x, y]) field.addEventListener("input", () => { if (x.value && y.value) read(panel, item, Number(x.value), Number(y.value)); });
  const ranges = [plot.x_range, plot.y_range], home = ranges.map(({ start, end }) => ({ start, end }));
  const moves = { ArrowLeft: [-0.1, 0, 1], ArrowRight: [0.1, 0, 1], ArrowUp: [0, 0.1, 1], ArrowDown: [0, -0.1, 1], "+": [0, 0, 0.8], "=": [0, 0, 0.8], "-": [0, 0, 1.25] };
  room.addEventListener("keydown", (event) => {
    if (event.key === "0") ranges.forEach((range, axis) => range.setv(home[axis]));
    else if (moves[event.key]) ranges.forEach((range, axis) => {
      const size = range.end - range.start, middle = (range.start + range.end) / 2 + size * moves[event.key][axis];
      const half = size * moves[event.key][2] / 2;
      range.setv({ start: middle - half, end: middle + half });
    });
    else return;
    event.preventDefault();
  });
  stretch(panel, item);
  return plot;
};

