"use strict";
const rooms = [...document.querySelectorAll(".bokeh")];

// -- drawing: what is in sight first, the rest when there is nothing else to do ---------
const draw = async (room) => {
  if (room.dataset.state) return;
  room.dataset.state = "drawing";
  const item = JSON.parse(document.getElementById(`item-${room.dataset.item}`).textContent);
  const panel = room.closest(".picture");
  const plot = panel ? make_picture(panel, room, item) : make_plot(item);
  dress(plot);
  await Bokeh.Plotting.show(plot, room);
  drawn.set(room, plot);
  room.dataset.state = "drawn";
};
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "200px" });
rooms.forEach((room) => watcher.observe(room));
const later = window.requestIdleCallback || ((task) => setTimeout(task, 50));
const draw_next = async () => {
  const room = rooms.find((each) => !each.dataset.state);
  if (!room) { document.body.dataset.drawn = "all"; return; }
  // One figure that cannot be drawn must not keep the others from it.
  await draw(room).catch((error) => console.error(error));
  later(draw_next);
};
addEventListener("load", () => setTimeout(() => later(draw_next), 300));

// -- search --------------------------------------------------------------------------
const search = document.getElementById("search"), rows = [...document.querySelectorAll("#frame-table tbody tr")];
const texts = rows.map((row) => row.textContent.toLowerCase());
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0;
  rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); n += !row.hidden; });
  if (n === 1) rows.find((row) => !row.hidden).querySelector("details").open = true;
  document.getElementById("found").textContent = `${n} of ${rows.length} frames`;
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); search.focus(); }
  else if (event.key === "t") toggle_theme();
});

// -- a page that is written anew while somebody looks at it ----------------------------
if (document.body.dataset.live) setInterval(() => {
  const script = document.createElement("script");
  script.src = `report-version.js?${Date.now()}`;
  script.onload = () => { script.remove(); if (window.flatcal_version !== document.body.dataset.live) location.reload(); };
  script.onerror = () => script.remove();
  document.head.append(script);
}, 2000);
