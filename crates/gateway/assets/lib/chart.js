// Charts over time: bars stacked upon each other, and lines. Drawn as SVG in the pixels that there are.
//
// Every chart is an image with a name and a description, and beside it the same values as a table: what the pointer can
// find in the picture, the keyboard and a screen reader find there.

import { el, freshId, svg } from "./dom.js";
import { brief, bucketName, tick } from "./format.js";
import { legend, table } from "./parts.js";

const PAD = { top: 8, right: 6, bottom: 20 };
/** Width of a letter of the axis at most, and the least room for its words. */
const LETTER = 7;
const LEAST_LEFT = 44;
const STEPS = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };
export const stepOf = (interval) => STEPS[interval];

/** Beginnings of the buckets from `from` to `to`, in UTC, as the server cuts them. */
export function buckets(from, to, interval) {
  const step = STEPS[interval];
  const list = [];
  for (let at = Math.floor(from / step) * step; at < to; at += step) list.push(at);
  return list;
}

/** A round number at or above `most`, and how many lines lead to it. */
export function niceScale(most, lines = 4) {
  if (!(most > 0)) return { top: 1, step: 1 };
  const rough = most / lines;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  return { top: Math.ceil((most / step) * 0.999) * step, step };
}

/** Redraws when the width changes, until it is taken out of the page. */
export function onWidth(node, draw) {
  let width = 0;
  const observer = new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now > 0 && now !== width) draw((width = now));
  });
  observer.observe(node);
}

/** Puts a switch between picture and table into the head of a panel, and gives the node that shows one of them. */
export function withTable(tools, picture, makeTable) {
  const tableBox = el("div", { class: "data-table", hidden: true });
  const show = (on) => {
    if (on) tableBox.replaceChildren(makeTable());
    tableBox.hidden = !on;
    picture.hidden = on;
    toggle.setAttribute("aria-pressed", String(on));
    tools.dataset.table = on ? "yes" : "";
  };
  const toggle = el("button", { type: "button", class: "secondary small", "aria-pressed": "false" }, "Table");
  toggle.addEventListener("click", () => show(tableBox.hidden));
  tools.replaceChildren(toggle);
  if (tools.dataset.table === "yes") queueMicrotask(() => show(true));
  return el("div", {}, picture, tableBox);
}

/**
 * A chart over time.
 *
 * `series` is [{ name, colour, values, dashed, area }], a value (or null) for each of `times`; `kind` is "bars" (stacked)
 * or "lines"; `format` writes a value; `top` fixes the upper end of the axis; `tools` is where the switch to the table goes.
 */
export function timeChart({ label, describe, kind, times, interval, series, format, height = 200, top, tools }) {
  const shown = series.filter((s) => s.values.some((v) => v !== null && v !== 0) || series.length === 1);
  const list = shown.length > 0 ? shown : series.slice(0, 1);
  const chart = el("div", { class: "chart" });
  const titleId = freshId("chart");
  const most = Math.max(
    0,
    ...times.map((_, i) =>
      kind === "bars" ? list.reduce((sum, s) => sum + (s.values[i] ?? 0), 0) : Math.max(0, ...list.map((s) => s.values[i] ?? 0)),
    ),
  );
  const scale = top ? { top, step: top / 4 } : niceScale(most);
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const levels = [];
  for (let v = 0; v <= scale.top * 1.001; v += scale.step) levels.push({ v, text: v === 0 ? "0" : brief(format(v)) });
  const edge = Math.max(LEAST_LEFT, 10 + LETTER * Math.max(...levels.map((level) => level.text.length)));

  onWidth(chart, (width) => {
    const inner = { w: width - edge - PAD.right, h: height - PAD.top - PAD.bottom };
    const slot = inner.w / times.length;
    const x = (i) => edge + (i + 0.5) * slot;
    const y = (v) => PAD.top + inner.h * (1 - v / scale.top);
    const marks = [];
    for (const { v, text } of levels) {
      marks.push(
        svg("line", { class: v === 0 ? "axis" : "grid", x1: edge, x2: width - PAD.right, y1: y(v), y2: y(v) }),
        svg("text", { x: edge - 8, y: y(v) + 4, "text-anchor": "end" }, text),
      );
    }
    const every = Math.max(1, Math.ceil(times.length / Math.max(2, Math.floor(inner.w / 84))));
    times.forEach((at, i) => {
      if (i % every !== 0 || (i > 0 && times.length - i < every / 2)) return;
      const text = interval === "hour" && times.length > 36 ? bucketName(at, "day") : tick(at, interval);
      const anchor = i === 0 && every > 1 ? "start" : "middle";
      marks.push(svg("text", { x: anchor === "start" ? edge : x(i), y: height - 4, "text-anchor": anchor }, text));
    });
    const drawn = kind === "bars" ? bars(list, times, { x, y, slot }) : lines(list, times, { x, y, h: PAD.top + inner.h });
    const cross = svg("line", { class: "cross", y1: PAD.top, y2: PAD.top + inner.h, visibility: "hidden" });
    const picture = svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-labelledby": `${titleId} ${titleId}-d` },
      svg("title", { id: titleId }, label),
      svg("desc", { id: `${titleId}-d` }, describe ?? ""),
      marks,
      drawn,
      cross,
    );
    const hover = (event) => {
      const box = picture.getBoundingClientRect();
      const i = Math.floor((event.clientX - box.left - edge) / slot);
      if (i < 0 || i >= times.length) return hide();
      cross.setAttribute("x1", x(i));
      cross.setAttribute("x2", x(i));
      cross.setAttribute("visibility", "visible");
      const rows = list
        .filter((s) => s.values[i] !== null && s.values[i] !== undefined)
        .map((s) =>
          el(
            "li",
            {},
            el("span", { class: "swatch", style: { "--colour": s.colour } }),
            el("span", {}, s.name),
            el("span", {}, format(s.values[i])),
          ),
        );
      tip.replaceChildren(el("p", {}, bucketName(times[i], interval)), el("ul", {}, rows));
      tip.hidden = false;
      const room = tip.offsetWidth + 12;
      const left = x(i) + room > width ? x(i) - room : x(i) + 12;
      tip.style.transform = `translate(${Math.max(0, left)}px, ${PAD.top}px)`;
    };
    const hide = () => {
      tip.hidden = true;
      cross.setAttribute("visibility", "hidden");
    };
    picture.addEventListener("pointermove", hover);
    picture.addEventListener("pointerleave", hide);
    chart.replaceChildren(picture, tip);
  });

  const makeTable = () =>
    table({
      label: `${label}, values`,
      tall: true,
      columns: [
        { title: interval === "day" ? "Day (UTC)" : "From", head: true, cell: (i) => bucketName(times[i], interval) },
        ...list.map((s) => ({ title: s.name, n: true, cell: (i) => format(s.values[i]) })),
      ],
      rows: times.map((_, i) => times.length - 1 - i).filter((i) => list.some((s) => s.values[i])),
      empty: "Nothing in this time.",
    });
  const key = list.length > 1 ? legend(list) : null;
  return [key, withTable(tools, chart, makeTable)].filter(Boolean);
}

function bars(list, times, { x, y, slot }) {
  const width = Math.max(1, Math.min(34, slot * (slot > 6 ? 0.72 : 0.9)));
  const gap = slot > 6 ? 1 : 0;
  return times.flatMap((_, i) => {
    let under = 0;
    return list.map((s) => {
      const value = s.values[i] ?? 0;
      if (value <= 0) return null;
      const [from, to] = [y(under), y(under + value)];
      under += value;
      return svg("rect", {
        class: "bar",
        x: x(i) - width / 2,
        y: to,
        width,
        height: Math.max(0.75, from - to - (under > value ? gap : 0)),
        fill: s.colour,
      });
    });
  });
}

function lines(list, times, { x, y, h }) {
  return list.flatMap((s) => {
    // A line has a gap where nothing is known.
    const runs = [];
    s.values.forEach((value, i) => {
      if (value === null || value === undefined) return;
      if (i > 0 && runs.length > 0 && runs.at(-1).at(-1)[2] === i - 1) runs.at(-1).push([x(i), y(value), i]);
      else runs.push([[x(i), y(value), i]]);
    });
    return runs.flatMap((run) => {
      const path = run.map(([px, py], i) => `${i === 0 ? "M" : "L"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      const stroke = svg("path", { class: `line${s.dashed ? " dashed" : ""}`, d: path, stroke: s.colour });
      const dot =
        run.length === 1 || times.length <= 32
          ? run.map(([px, py]) => svg("circle", { class: "dotmark", cx: px, cy: py, r: run.length === 1 ? 3 : 2, fill: s.colour }))
          : [];
      const fill = s.area
        ? svg("path", { class: "area", d: `${path}L${run.at(-1)[0]} ${h}L${run[0][0]} ${h}Z`, fill: s.colour })
        : null;
      return [fill, stroke, ...dot];
    });
  });
}

/** A small line without axes, for a tile; the figure beside it says what matters, so it is hidden from screen readers. */
export function spark(values, colour = "var(--accent)") {
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return null;
  const most = Math.max(...known) || 1;
  const at = (v, i) => `${((i / (values.length - 1)) * 100).toFixed(2)} ${(26 - (v / most) * 23).toFixed(2)}`;
  const points = values.map((v, i) => [v ?? 0, i]).map(([v, i]) => at(v, i));
  return svg(
    "svg",
    { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: `M0 28L${points.join("L")}L100 28Z`, fill: colour, opacity: 0.13 }),
    svg("path", { d: `M${points.join("L")}`, fill: "none", stroke: colour, "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" }),
  );
}
