// Draw the way of an event as a picture: four boxes and what runs between them; from top to bottom where there is little width.

import { s, say } from "./dom.js";

const GAP = 44;
const LOW = 104;
const HIGH = 128;

/** Return {node, set, leave}; `set(boxes)` takes for each box {value, unit, lines, runs}; `runs` says whether anything leaves it. */
export function flow(names) {
  const node = s("svg", { class: "flow", role: "img" });
  let parts = [];
  let shown = names.map(() => ({ value: "–", unit: "", lines: [], runs: false }));
  let width = 0;

  function build() {
    const room = node.parentNode?.clientWidth ?? 0;
    if (!room || room === width) return;
    width = room;
    const tall = width < 720;
    const box = tall ? { w: width - 2, h: LOW } : { w: (width - 2 - GAP * (names.length - 1)) / names.length, h: HIGH };
    const height = tall ? names.length * LOW + (names.length - 1) * GAP + 2 : HIGH + 2;
    node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    node.setAttribute("height", height);
    parts = names.map((name, place) => {
      const x = 1 + (tall ? 0 : place * (box.w + GAP));
      const y = 1 + (tall ? place * (box.h + GAP) : 0);
      const texts = {
        value: s("text", { class: "value", x: x + 20, y: y + (tall ? 56 : 62) }),
        unit: s("text", { class: "unit", x: x + 20, y: y + (tall ? 76 : 84) }),
        more: s("text", { class: "unit", x: x + 20, y: y + (tall ? 93 : 106) }),
      };
      const frame = s("rect", { class: place === names.length - 1 ? "box here" : "box", x, y, width: box.w, height: box.h, rx: 14 });
      const group = s("g", {}, frame, s("text", { class: "name", x: x + 20, y: y + 28 }, name), ...Object.values(texts));
      const way = place < names.length - 1 ? between(x, y, box, tall) : null;
      return { ...texts, group, way };
    });
    node.replaceChildren(...parts.flatMap((part) => [part.group, ...(part.way?.nodes ?? [])]));
    write();
  }

  function between(x, y, box, tall) {
    const [x1, y1, x2, y2] = tall ? [x + 36, y + box.h + 8, x + 36, y + box.h + GAP - 12] : [x + box.w + 8, y + box.h / 2, x + box.w + GAP - 12, y + box.h / 2];
    const tip = tall ? `M${x2 - 5} ${y2 - 2}l5 7l5 -7z` : `M${x2 - 2} ${y2 - 5}l7 5l-7 5z`;
    const run = s("line", { class: "run", x1, y1, x2, y2 });
    return { run, nodes: [s("line", { class: "way", x1, y1, x2, y2 }), run, s("path", { class: "tip", d: tip })] };
  }

  function write() {
    parts.forEach((part, place) => {
      const { value, unit, more, runs } = shown[place];
      say(part.value, value);
      say(part.unit, unit);
      say(part.more, more ?? "");
      part.way?.run.classList.toggle("running", runs);
    });
    node.setAttribute("aria-label", shown.map(({ value, unit, more }, place) => `${names[place]}: ${value} ${unit}${more ? `, ${more}` : ""}`).join(". "));
  }

  const sized = new ResizeObserver(build);
  return {
    node,
    set(boxes) {
      shown = boxes;
      if (width) write();
      else {
        sized.observe(node.parentNode);
        build();
      }
    },
    leave: () => sized.disconnect(),
  };
}
