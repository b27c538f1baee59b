// Charts that are not over time: a heat map, a treemap, points with their intervals.

import { el, freshId, svg } from "./dom.js";
import { legend, table } from "./parts.js";
import { niceScale, onWidth, withTable } from "./chart.js";

/**
 * A heat map: `cell(row, column)` gives a share from 0 to 1, or null. One hue, darker for more; each cell has its figure
 * on it, so that colour is never the only bearer.
 */
export function heatMap({ label, describe, rows, columns, rowTitle, columnTitle, cell, format, tools }) {
  const chart = el("div", { class: "chart" });
  const id = freshId("heat");
  onWidth(chart, (width) => {
    const left = Math.min(96, width * 0.25);
    const cw = (width - left) / columns.length;
    const ch = Math.max(26, Math.min(40, cw * 0.6));
    const height = rows.length * ch + 40;
    const parts = [];
    rows.forEach((row, r) => {
      parts.push(svg("text", { x: left - 8, y: r * ch + ch / 2 + 4, "text-anchor": "end" }, row.name));
      columns.forEach((column, c) => {
        const value = cell(row, column);
        const known = value !== null && value !== undefined;
        parts.push(
          svg("rect", {
            x: left + c * cw + 1,
            y: r * ch + 1,
            width: cw - 2,
            height: ch - 2,
            rx: 4,
            fill: known ? `color-mix(in srgb, var(--accent) ${Math.round(5 + value * 55)}%, var(--panel))` : "var(--sunken)",
          }),
        );
        if (cw > 30) {
          // Never so dark that the figure on it could not be read.
          const middle = { x: left + (c + 0.5) * cw, y: r * ch + ch / 2 + 4 };
          parts.push(svg("text", { class: "cell-text", ...middle }, known ? format(value) : ""));
        }
      });
    });
    columns.forEach((column, c) =>
      parts.push(svg("text", { x: left + (c + 0.5) * cw, y: rows.length * ch + 16, "text-anchor": "middle" }, column.name)),
    );
    parts.push(svg("text", { x: left, y: rows.length * ch + 34 }, `${columnTitle} →`));
    chart.replaceChildren(
      svg(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-labelledby": `${id} ${id}-d` },
        svg("title", { id }, label),
        svg("desc", { id: `${id}-d` }, describe),
        parts,
      ),
    );
  });
  const makeTable = () =>
    table({
      label: `${label}, values`,
      columns: [
        { title: rowTitle, head: true, cell: (row) => row.name },
        ...columns.map((column) => ({
          title: column.name,
          n: true,
          cell: (row) => {
            const value = cell(row, column);
            return value === null || value === undefined ? "–" : format(value);
          },
        })),
      ],
      rows,
    });
  return withTable(tools, chart, makeTable);
}

/**
 * Points with the interval that holds them, on a shared axis: `series` is [{ name, colour, line, points: [{ x, mean, low,
 * high, name }] }].
 */
export function pointChart({ label, describe, series, xTitle, xFormat, yFormat, xRange, yRange, height = 240, tools }) {
  const chart = el("div", { class: "chart" });
  const id = freshId("points");
  const pad = { top: 10, right: 16, bottom: 38, left: 52 };
  const all = series.flatMap((s) => s.points);
  const [x0, x1] = xRange ?? [Math.min(...all.map((p) => p.x)), Math.max(...all.map((p) => p.x))];
  const highest = Math.max(...all.map((p) => p.high ?? p.mean));
  const lowest = Math.min(0, ...all.map((p) => p.low ?? p.mean));
  const reach = niceScale(Math.max(highest, -lowest));
  const [y0, y1] = yRange ?? [lowest < 0 ? -reach.top : 0, reach.top];
  onWidth(chart, (width) => {
    const x = (v) => pad.left + ((v - x0) / (x1 - x0 || 1)) * (width - pad.left - pad.right);
    const y = (v) => pad.top + (1 - (v - y0) / (y1 - y0 || 1)) * (height - pad.top - pad.bottom);
    const parts = [];
    for (let i = 0; i <= 4; i += 1) {
      const v = y0 + ((y1 - y0) * i) / 4;
      parts.push(
        svg("line", { class: i === 0 ? "axis" : "grid", x1: pad.left, x2: width - pad.right, y1: y(v), y2: y(v) }),
        svg("text", { x: pad.left - 8, y: y(v) + 4, "text-anchor": "end" }, yFormat(v)),
      );
    }
    const ticks = width > 480 ? 5 : 3;
    for (let i = 0; i < ticks; i += 1) {
      const v = x0 + ((x1 - x0) * i) / (ticks - 1);
      parts.push(svg("text", { x: x(v), y: height - 22, "text-anchor": "middle" }, xFormat(v)));
    }
    parts.push(svg("text", { x: pad.left, y: height - 4 }, `${xTitle} →`));
    for (const s of series) {
      const d = s.points.map((p, i) => `${i === 0 ? "M" : "L"}${x(p.x).toFixed(1)} ${y(p.mean).toFixed(1)}`).join("");
      if (s.line) parts.push(svg("path", { class: "line", d, stroke: s.colour }));
      for (const p of s.points) {
        if (p.low !== undefined) {
          parts.push(svg("line", { class: "whisker", stroke: s.colour, x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high) }));
        }
        parts.push(svg("circle", { class: "dotmark", cx: x(p.x), cy: y(p.mean), r: 4, fill: s.colour }));
        if (p.name) parts.push(svg("text", { x: x(p.x) + 8, y: y(p.mean) - 7 }, p.name));
      }
    }
    chart.replaceChildren(
      svg(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-labelledby": `${id} ${id}-d` },
        svg("title", { id }, label),
        svg("desc", { id: `${id}-d` }, describe),
        parts,
      ),
    );
  });
  const rows = series.flatMap((s) => s.points.map((p) => ({ ...p, series: s.name })));
  const makeTable = () =>
    table({
      label: `${label}, values`,
      columns: [
        { title: "", head: true, cell: (p) => p.name ?? p.series },
        { title: xTitle, n: true, cell: (p) => xFormat(p.x) },
        { title: "Value", n: true, cell: (p) => yFormat(p.mean) },
        { title: "Interval", n: true, cell: (p) => (p.low === undefined ? "–" : `${yFormat(p.low)} to ${yFormat(p.high)}`) },
      ],
      rows,
    });
  return [series.length > 1 ? legend(series) : null, withTable(tools, chart, makeTable)].filter(Boolean);
}

/** Rectangles of the given sizes that fill a box and are as square as they can be (Bruls, Huizing, van Wijk 2000). */
export function squarify(items, x, y, w, h) {
  const total = items.reduce((sum, item) => sum + item.size, 0);
  if (!(total > 0)) return [];
  const rest = [...items].sort((a, b) => b.size - a.size).map((item) => ({ item, area: (item.size / total) * w * h }));
  const placed = [];
  const worst = (row, side) => {
    const sum = row.reduce((s, one) => s + one.area, 0);
    const least = row.at(-1).area;
    return Math.max((side * side * row[0].area) / (sum * sum), (sum * sum) / (side * side * least));
  };
  while (rest.length > 0) {
    const side = Math.min(w, h);
    const row = [rest.shift()];
    while (rest.length > 0 && worst([...row, rest[0]], side) <= worst(row, side)) row.push(rest.shift());
    const sum = row.reduce((s, one) => s + one.area, 0);
    const thick = side > 0 ? sum / side : 0;
    let at = w >= h ? y : x;
    for (const { item, area } of row) {
      const long = thick > 0 ? area / thick : 0;
      placed.push(w >= h ? { item, x, y: at, w: thick, h: long } : { item, x: at, y, w: long, h: thick });
      at += long;
    }
    if (w >= h) [x, w] = [x + thick, w - thick];
    else [y, h] = [y + thick, h - thick];
  }
  return placed;
}

/**
 * A treemap of buttons. `groups` is [{ name, items: [{ key, size, title, lines, colour, share, label }] }]; `share` (0 to
 * 1) is how strong a cell's colour is. Says which one was chosen. Gives the node and `strengthen(key, share, lines)`.
 */
export function treemap({ label, groups, height = 320, onChoose }) {
  const node = el("div", { class: "treemap", role: "group", "aria-label": label, style: { height: `${height}px` } });
  const buttons = new Map();
  let chosen = null;
  const fillButton = (button, item, room) => {
    const lines = item.lines ?? [];
    button.replaceChildren(
      ...(room.w > 44 && room.h > 20 ? [el("strong", {}, item.title)] : []),
      ...lines.slice(0, Math.max(0, Math.floor((room.h - 26) / 16))).map((line) => el("span", {}, line)),
    );
  };
  onWidth(node, (width) => {
    buttons.clear();
    const sized = groups.map((group) => ({ ...group, size: group.items.reduce((s, item) => s + item.size, 0) }));
    const many = sized.length > 1;
    const boxes = squarify(sized, 0, 0, width, height).map(({ item: group, x, y, w, h }) => {
      const head = many ? 20 : 0;
      const cells = squarify(group.items, 0, head, w, Math.max(0, h - head)).map((cell) => {
        const button = el("button", {
          type: "button",
          "aria-pressed": String(chosen === cell.item.key),
          title: cell.item.label,
          style: {
            left: `${cell.x}px`,
            top: `${cell.y}px`,
            width: `${cell.w}px`,
            height: `${cell.h}px`,
            "--colour": cell.item.colour,
            "--left": String(cell.item.share ?? 1),
          },
        });
        fillButton(button, cell.item, cell);
        button.addEventListener("click", () => {
          chosen = cell.item.key;
          for (const [key, one] of buttons) one.button.setAttribute("aria-pressed", String(key === chosen));
          onChoose(cell.item);
        });
        buttons.set(cell.item.key, { button, item: cell.item, room: cell });
        return button;
      });
      return el(
        "div",
        { class: "group", style: { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px` } },
        many && el("span", { class: "ellipsis" }, group.name),
        cells,
      );
    });
    node.replaceChildren(...boxes);
  });
  return {
    node,
    /** Changes a cell in place, without moving anything: what counts down must not redraw. */
    change(key, { share, lines, label: text }) {
      const entry = buttons.get(key);
      if (!entry) return;
      entry.button.style.setProperty("--left", String(share));
      entry.button.title = text;
      fillButton(entry.button, { ...entry.item, lines }, entry.room);
    },
  };
}
