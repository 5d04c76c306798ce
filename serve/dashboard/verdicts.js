// What the gate said of the newest versions, by which numbers, and what each was made of; and who moved what.

import { asker } from "./asking.js";
import { h, s, say } from "./dom.js";
import { bytes, number, when } from "./words.js";

const VERDICTS = { promote: "promoted", reject: "rejected", wait: "waits" };
// A stream may promote every two seconds, and each look reads from storage.
const NEWS_S = 5;
const RARELY_S = 20;
const WIDE = 132;
const HIGH = 22;
const four = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));
const signed = (value) => (value === null || value === undefined ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`);

/** Return {nodes, update, leave}: two cards that are read anew when another version is live. */
export function verdicts(ask) {
  const list = h("ul", { class: "letters" });
  const failed = h("p", { class: "error", role: "alert", hidden: true });
  const lead = h("p", { class: "soft small" }, "Both versions answer the same new events. The bar is the candidate's lead with two standard errors, the dashes are how far it may fall behind.");
  const decided = h("section", { class: "card", "aria-labelledby": "decided" }, h("h2", { id: "decided" }, "What the gate said"), lead, failed, list);
  const body = h("tbody");
  const head = h("tr", {}, ...["Move", "Version", "By", "Why", "At"].map((name) => h("th", { scope: "col" }, name)));
  const table = h("table", { class: "move-list" }, h("caption", { class: "hidden" }, "Moves, newest first"), h("thead", {}, head), body);
  const moved = h("section", { class: "card", "aria-labelledby": "moved" }, h("h2", { id: "moved" }, "Moves"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Moves, as a table" }, table));
  const state = asker(ask, "v1/models/history?last=10", NEWS_S, draw);
  decided.hidden = moved.hidden = true;
  let seen = null;
  let lookedAt = -Infinity;

  function draw() {
    say(failed, state.error);
    failed.hidden = !state.error;
    const { data } = state;
    decided.hidden = !data?.versions.length && !state.error;
    moved.hidden = !data?.moves.length;
    if (!data) return;
    const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.version));
    list.replaceChildren(...data.versions.map((version) => entry(version, open.has(version.version))));
    body.replaceChildren(
      ...data.moves.map((move) => {
        const by = move.by_gate ? "the gate" : move.action === "rollback" ? "rolled back" : "by hand";
        return h("tr", {}, h("td", {}, number(move.number)), h("td", { class: "whole" }, move.version), h("td", { class: "whole" }, by), h("td", {}, move.reason), h("td", { class: "whole" }, when(move.at_ms)));
      }),
    );
  }

  return {
    nodes: [decided, moved],
    update(frame) {
      const live = JSON.stringify([frame.live?.model_version, frame.live?.digest]);
      if (live === seen && performance.now() - lookedAt < RARELY_S * 1000) return;
      if (!state.look()) return;
      seen = live;
      lookedAt = performance.now();
    },
    leave: state.leave,
  };
}

function entry(version, isOpen) {
  const { decision } = version;
  const verdict = decision ? (VERDICTS[decision.verdict] ?? decision.verdict) : "not judged yet";
  const summary = h(
    "summary",
    { class: "verdict" },
    h("span", { class: "reason whole" }, version.version),
    h("span", { class: decision?.verdict === "promote" ? "tag" : decision?.verdict === "reject" ? "tag off bad" : "tag off" }, verdict),
    version.is_live ? h("span", { class: "tag" }, "live") : null,
    version.is_pinned ? h("span", { class: "tag off" }, "kept") : null,
    h("span", { class: "detail" }, decision?.reason ?? ""),
    decision ? picture(decision) : null,
  );
  const offsets = Object.entries(version.offsets).map(([topic, ends]) => `${topic} to ${Object.entries(ends).map(([part, end]) => `${part}:${number(end)}`).join(" ")}`);
  const teachers = Object.entries(version.teachers).map(([name, of]) => `${name} ${of}`);
  const made = [
    ["Follows", version.parent ?? "nothing"],
    ["Learned from", offsets.join("; ") || "no offsets are noted"],
    ["Teachers", teachers.join(", ") || "none"],
    ["Made at", when(version.created_ms)],
    ["Size", bytes(version.bytes)],
    ["Digest", version.digest.slice(0, 12)],
    ...ownMetrics(version.metrics, 8),
  ];
  const parts = [part("By these numbers", decision ? numbersOf(decision) : [["Numbers", "none yet"]]), part("Made of", made)];
  return h("li", {}, h("details", { open: isOpen, "data-version": version.version }, summary, h("div", { class: "two inner" }, ...parts)));
}

/** Return what the student itself finds; of a version that has none such, whatever it has: the baselines' names come first. */
export function ownMetrics(metrics, most) {
  const all = Object.entries(metrics ?? {}).filter(([, value]) => typeof value === "number");
  const own = all.filter(([name]) => name.startsWith("student."));
  return (own.length ? own : all).slice(0, most).map(([name, value]) => [name, Math.abs(value) < 1 ? value.toFixed(4) : number(value)]);
}

function numbersOf({ numbers, live, batch }) {
  if (live === null) return [["Against", "nothing was live"], ["Queries", number(numbers.num_queries ?? 0)]];
  const told = { num_queries: 1, candidate: 1, live: 1, difference: 1, standard_error: 1, allowed: 1, evidence: 1, needed: 1 };
  return [
    ["Against", live],
    ["Queries", number(numbers.num_queries ?? 0)],
    ["Its recall@20", four(numbers.candidate)],
    ["The live one's", four(numbers.live)],
    ["Lead", `${signed(numbers.difference)} ± ${four(numbers.standard_error)}`],
    ["It may fall behind by", numbers.allowed === undefined ? "–" : four(Math.abs(numbers.allowed))],
    ["Evidence that it is worse", numbers.evidence === undefined ? "–" : `${number(numbers.evidence)}; ${number(numbers.needed)} rejects`],
    ...Object.entries(numbers).filter(([name]) => !(name in told)).map(([name, value]) => [name, four(value)]),
    ["Window ends with batch", number(batch)],
  ];
}

function part(title, facts) {
  return h("div", {}, h("h3", {}, title), h("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)])));
}

// The lead as a point with two standard errors, zero as a line, and how far it may fall behind as dashes.
function picture({ verdict, numbers, live }) {
  const { difference, standard_error: error = 0, allowed = 0 } = numbers;
  if (live === null || difference === undefined || difference === null) return null;
  const most = Math.max(Math.abs(difference) + 2 * error, Math.abs(allowed), 1e-6) * 1.12;
  const x = (value) => WIDE / 2 + (value / most) * (WIDE / 2 - 4);
  const color = verdict === "reject" ? "var(--bad)" : "var(--accent)";
  const line = (from, to, more) => s("line", { x1: x(from), x2: x(to), y1: HIGH / 2, y2: HIGH / 2, ...more });
  return s(
    "svg",
    { class: "lead-plot", viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, height: HIGH, role: "img", "aria-label": `Lead ${signed(difference)}, standard error ${four(error)}` },
    line(-most, most, { stroke: "var(--line)", "stroke-width": 1 }),
    s("line", { x1: x(0), x2: x(0), y1: 2, y2: HIGH - 2, stroke: "var(--soft)", "stroke-width": 1 }),
    s("line", { x1: x(allowed), x2: x(allowed), y1: 2, y2: HIGH - 2, stroke: "var(--soft)", "stroke-width": 1, "stroke-dasharray": "2 3" }),
    line(difference - 2 * error, difference + 2 * error, { stroke: color, "stroke-width": 4, "stroke-linecap": "round", opacity: 0.45 }),
    s("circle", { cx: x(difference), cy: HIGH / 2, r: 4.5, fill: color }),
  );
}
