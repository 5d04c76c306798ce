// Draw lines over time with uPlot, and say the same in a table for whoever does not see them.

import { h, s, say, styled } from "./dom.js";
import { time } from "./words.js";

const ROWS = 12;
const STEPS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400];
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * Return a chart: {node, set, leave}.
 *
 * `set(lines, xs, marks)` takes lines of {name, values, color, dash, width, band: [low, high]}, times in ms, and marks of {at_ms, label, kind}.
 */
export function chart({ title, lead, format, height = 240, zero = false }) {
  const legend = h("ul", { class: "legend", "aria-label": `Newest values: ${title}` });
  const plot = h("div", { class: "plot", "aria-hidden": "true" });
  const body = h("tbody");
  const head = h("tr");
  const table = h("table", {}, h("caption", { class: "hidden" }, title), h("thead", {}, head), body);
  const details = h("details", {}, h("summary", {}, "Show as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, table` }, table));
  const node = h("section", { class: "card" }, h("h2", {}, title), lead ? h("p", { class: "soft small" }, lead) : null, legend, plot, details);
  let now = null;
  let drawn = null;
  let shape = "";

  function draw() {
    if (!now?.xs.length || !plot.clientWidth) return;
    const { lines, xs } = now;
    const columns = [xs.map((ms) => ms / 1000), ...lines.map((line) => line.values), ...bands(lines).flatMap((line) => line.band)];
    const is = JSON.stringify([plot.clientWidth, dark.matches, lines.map((line) => line.name)]);
    if (drawn && shape === is) {
      drawn.setData(columns);
      return;
    }
    shape = is;
    drawn?.destroy();
    drawn = new uPlot(options(lines), columns, plot);
  }

  function bands(lines) {
    return lines.filter((line) => line.band);
  }

  function options(lines) {
    const grid = { stroke: styled("--line"), width: 1 };
    const axis = { stroke: styled("--soft"), grid, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const edges = bands(lines).flatMap((line) => [{ ...line, edge: true }, { ...line, edge: true }]);
    return {
      width: plot.clientWidth,
      height,
      padding: [20, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: { y: { range: (u, low, high) => room(low, high, zero) } },
      axes: [
        { ...axis, grid: { show: false }, size: 28, space: 80, incrs: STEPS_S, values: (u, splits) => splits.map((at) => time(at * 1000).slice(0, splits.at(-1) - splits[0] < 600 ? 8 : 5)) },
        { ...axis, size: 56, values: (u, splits) => splits.map(format) },
      ],
      series: [
        {},
        ...[...lines, ...edges].map((line) => ({
          stroke: line.edge ? "transparent" : styled(line.color),
          width: line.edge ? 0 : (line.width ?? 1.75),
          dash: line.dash,
          points: { show: false },
          spanGaps: true,
        })),
      ],
      bands: bands(lines).map((line, place) => {
        const first = lines.length + 1 + 2 * place;
        return { series: [first + 1, first], fill: `${styled(line.color)}26` };
      }),
      hooks: { draw: [drawMarks], setCursor: [(u) => tell(u.cursor.idx)] },
    };
  }

  function drawMarks(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "left";
    let free = -Infinity;
    for (const mark of now?.marks ?? []) {
      const x = u.valToPos(mark.at_ms / 1000, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      const tick = mark.kind === "promoted";
      ctx.strokeStyle = ctx.fillStyle = styled(tick ? "--accent" : mark.kind === "refresh" ? "--soft" : "--warn");
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash(tick ? [] : [2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, tick ? bbox.top + bbox.height - 6 * devicePixelRatio : bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const width = ctx.measureText(mark.label).width + 8 * devicePixelRatio;
      const left = Math.min(x, bbox.left + bbox.width - width);
      if (tick || left < free) continue;
      ctx.fillText(mark.label, left, bbox.top - 3 * devicePixelRatio);
      free = left + width;
    }
    ctx.restore();
  }

  function tell(at) {
    const place = at ?? (now ? now.xs.length - 1 : 0);
    [...legend.children].forEach((entry, line) => say(entry.lastChild, format(newest(now.lines[line].values, place))));
  }

  function list() {
    const names = now.lines.map((line) => line.name).join("|");
    if (legend.dataset.names !== names) {
      legend.dataset.names = names;
      legend.replaceChildren(
        ...now.lines.map((line) => {
          const stroke = s("line", { x1: 1, y1: 4, x2: 21, y2: 4, stroke: `var(${line.color})`, "stroke-width": line.width ?? 2, "stroke-dasharray": line.dash?.join(" ") });
          return h("li", {}, s("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, stroke), h("span", {}, line.name), h("b"));
        }),
      );
      head.replaceChildren(h("th", { scope: "col" }, "Time"), ...now.lines.map((line) => h("th", { scope: "col", class: "num" }, line.name)));
    }
    tell(drawn?.cursor.idx);
  }

  function rows() {
    if (!details.open || !now) return;
    const step = Math.max(1, Math.floor(now.xs.length / ROWS));
    const places = now.xs.map((_, place) => place).filter((place) => (now.xs.length - 1 - place) % step === 0).reverse().slice(0, ROWS);
    body.replaceChildren(
      ...places.map((place) =>
        h("tr", {}, h("th", { scope: "row" }, time(now.xs[place])), ...now.lines.map((line) => h("td", { class: "num" }, format(line.values[place])))),
      ),
    );
  }

  const sized = new ResizeObserver(() => draw());
  sized.observe(plot);
  dark.addEventListener("change", draw);
  details.addEventListener("toggle", rows);
  return {
    node,
    set(lines, xs, marks = []) {
      now = { lines, xs, marks };
      list();
      rows();
      draw();
    },
    leave() {
      sized.disconnect();
      dark.removeEventListener("change", draw);
      drawn?.destroy();
    },
  };
}

function newest(values, place) {
  for (let at = place; at >= 0 && at > place - 5; at -= 1) if (values[at] !== null && values[at] !== undefined) return values[at];
  return null;
}

function room(low, high, zero) {
  if (low === null || high === null) return [0, 1];
  if (zero && low === 0 && high === 0) return [0, 1]; // Else the axis has six times "0.00".
  const pad = Math.max((high - low) * 0.12, Math.abs(high) * 0.05, 1e-6);
  return [zero ? Math.min(0, low - (low < 0 ? pad : 0)) : low - pad, high + pad];
}
