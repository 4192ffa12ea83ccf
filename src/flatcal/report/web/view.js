"use strict";
const $ = (id) => document.getElementById(id);
const panel = document.querySelector(".picture"), room = panel.querySelector(".bokeh"), list = $("list");
const names = { raw: "raw", subtract_overscan: "less overscan", subtract_parallel_overscan: "less parallel overscan", subtract_bias: "less bias", correct_linearity: "made linear", subtract_dark: "less dark", flat_correct: "over flat", ratio: "ratio to master", master: "master" };
let frames = [], chosen = null, stage = null, shown = null, plot = null, kept = null, timer = null, request = 0;

const ask = async (address, options) => {
  const answer = await fetch(address, options);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
};
const tell = (text, bad = false) => { $("told").textContent = text; $("told").classList.toggle("bad", bad); };

// -- images ------------------------------------------------------------------------------
const load = async (file, at, region = "") => {
  const answer = await ask(`/region?file=${encodeURIComponent(file)}&stage=${at}${region}`);
  const item = JSON.parse(answer.headers.get("X-Flatcal-Region"));
  item.pixels = new Float32Array(await answer.arrayBuffer());
  return item;
};
// Pixels take the place of those that are shown; the figure, its zoom and its stretch stay.
const put = (item) => {
  const { source, mapper } = shown;
  Object.keys(shown).forEach((name) => delete shown[name]);
  Object.assign(shown, item, { source, mapper });
  source.data = columns_of(shown);
  stretch(panel, shown);
};
const same_size = (item) => shown && shown.whole.join() === item.whole.join();
const show = async () => {
  const number = ++request;
  stop_blinking();
  try {
    const item = await load(chosen.file, stage);
    if (number !== request) return;
    if (same_size(item)) { put(item); await sharpen(); } else {
      room.replaceChildren();
      shown = item;
      plot = make_picture(panel, room, shown);
      dress(plot);
      await Bokeh.Plotting.show(plot, room);
      drawn.set(room, plot);
      for (const range of [plot.x_range, plot.y_range]) range.change.connect(() => { clearTimeout(sharpen.timer); sharpen.timer = setTimeout(sharpen, 250); });
    }
    room.dataset.state = `${chosen.file} ${stage}`;
  } catch (error) { tell(error.message, true); }
};
// What is in sight at full resolution, when it has been zoomed into.
const region_in_sight = () => ["x", "y"].map((axis) => {
  const range = plot[`${axis}_range`];
  return `&${axis}0=${Math.floor(range.start - 0.5)}&${axis}1=${Math.ceil(range.end + 0.5)}`;
}).join("");
const sharpen = async () => {
  const [rows, columns] = shown.whole;
  if (rows * columns <= 1 << 20 || timer) return;
  const number = ++request;
  try {
    const item = await load(chosen.file, stage, region_in_sight());
    if (number === request) put(item);
  } catch (error) { tell(error.message, true); }
};

// -- frames ------------------------------------------------------------------------------
const choose = (frame, at) => {
  chosen = frame;
  stage = frame.stages.includes(at) ? at : frame.stages.at(-1);
  for (const entry of list.children) {
    const is_it = entry.dataset.file === frame.file;
    entry.setAttribute("aria-selected", is_it);
    if (is_it) entry.scrollIntoView({ block: "nearest" });
  }
  $("title").textContent = frame.file;
  $("about").textContent = [frame.kind, frame.filter, frame.status, frame.reason].filter(Boolean).join(", ");
  $("stages").replaceChildren(...frame.stages.map((name, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${names[name]} (${i + 1})`;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", name === stage);
    button.onclick = () => choose(frame, name);
    return button;
  }));
  const is_raw = frame.status !== "made";
  $("overrule").disabled = !is_raw;
  $("overrule").textContent = frame.status === "left out" ? "take it in again (x)" : "leave it out (x)";
  if (stage) show(); else tell("it cannot be shown: its header could not be read", true);
};
const fill = () => list.replaceChildren(...frames.map((frame) => {
  const entry = document.createElement("li"), small = document.createElement("small");
  entry.setAttribute("role", "option");
  Object.assign(entry.dataset, { file: frame.file, status: frame.status });
  small.textContent = ` ${frame.kind} ${frame.filter}`;
  entry.append(frame.file, small);
  entry.onclick = () => choose(frame, stage);
  return entry;
}));
const visible = () => [...list.children].filter((entry) => !entry.hidden);
const step = (by) => {
  const entries = visible(), at = entries.findIndex((entry) => entry.dataset.file === chosen?.file);
  const next = entries[Math.max(0, Math.min(entries.length - 1, at + by))];
  if (next) choose(frames.find((frame) => frame.file === next.dataset.file), stage);
};
const refresh = async () => { frames = await (await ask("/frames")).json(); fill(); };

// -- blinking ----------------------------------------------------------------------------
const keep = () => {
  kept = { file: chosen.file, stage };
  $("blink").disabled = false;
  tell(`kept: ${kept.file}, ${names[kept.stage]}; choose another frame and blink`);
};
const stop_blinking = () => { clearInterval(timer); timer = null; $("blink").setAttribute("aria-pressed", false); };
const blink = async () => {
  if (timer) { stop_blinking(); show(); return; }
  if (!kept) return;
  try {
    const region = region_in_sight();
    const both = await Promise.all([load(kept.file, kept.stage, region), load(chosen.file, stage, region)]);
    if (both[0].whole.join() !== both[1].whole.join()) { tell("images of different sizes cannot be blinked", true); return; }
    const labels = [kept.file, chosen.file];
    let turn = 0;
    $("blink").setAttribute("aria-pressed", true);
    const swap = () => { $("title").textContent = labels[turn]; put({ ...both[turn] }); turn = 1 - turn; };
    swap();
    timer = setInterval(swap, 500);
  } catch (error) { tell(error.message, true); }
};

// -- overruling --------------------------------------------------------------------------
const overrule = async () => {
  const button = $("overrule"), { file } = chosen;
  if (button.disabled) return;
  button.disabled = true;
  tell("running again what depends on it...");
  try {
    const body = JSON.stringify({ file, leave_out: chosen.status !== "left out" });
    const answer = await ask("/overrule", { method: "POST", body, headers: { "X-Flatcal-Token": document.body.dataset.token } });
    const { told } = await answer.json();
    await refresh();
    choose(frames.find((frame) => frame.file === file), stage);
    tell(told);
  } catch (error) { tell(error.message, true); button.disabled = false; }
};

$("keep").onclick = keep;
$("blink").onclick = blink;
$("overrule").onclick = overrule;
$("search").addEventListener("input", () => {
  for (const entry of list.children) entry.hidden = !entry.textContent.toLowerCase().includes($("search").value.toLowerCase());
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const in_image = room.contains(event.target);
  if ((event.key === "ArrowDown" && !in_image) || event.key === "n") step(1);
  else if ((event.key === "ArrowUp" && !in_image) || event.key === "p") step(-1);
  else if (event.key === "k" && chosen) keep();
  else if (event.key === "b") blink();
  else if (event.key === "x") overrule();
  else if (event.key === "/") $("search").focus();
  else if (/^[1-9]$/.test(event.key) && chosen?.stages[event.key - 1]) choose(chosen, chosen.stages[event.key - 1]);
  else return;
  event.preventDefault();
});
refresh().then(() => { if (frames.length) choose(frames[0], "raw"); }).catch((error) => tell(error.message, true));
