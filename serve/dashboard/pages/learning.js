// Learning: how well each model foretells events that it has not learned from, what teachers add, and each teacher's say.

import { chart } from "../charts.js";
import { h, say } from "../dom.js";
import { model, several, time } from "../words.js";

const COLORS = ["--series-3", "--series-4", "--series-5", "--series-6", "--series-8"];
const FIXED = {
  student: { color: "--series-1", width: 2.75 },
  student_events_only: { color: "--series-2", dash: [5, 4] },
  popular: { color: "--series-7", dash: [2, 3] },
  recent_popular: { color: "--series-7" },
};
const LEFT = new Set(["own_history"]);
const FIRST = ["student", "student_events_only"];
const MARKS = { return: "went back", rollback: "rolled back", promote: "promoted by hand", refresh_failed: "refresh failed:" };
const ALARMS = { choices_moved: "choices moved", teacher_fell: "a teacher's score fell", labels_harm: "labels do harm", unlike_events: "unlike events" };
const HAPPENED = 12;
const LEAST_QUERIES = 100;
const three = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
const signed = (value) => (value === null || value === undefined ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`);
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(0)} %`);

function mount(root, { live }) {
  const lead = h("p", { class: "lead" }, "Each event is first foretold, then learned. Recall@20: how often the item was among the first twenty, of late.");
  const headline = h("h1", {}, "Is it learning?");
  const empty = h("p", { class: "note" }, "No stream has told this server's board of itself yet. The history begins with it, or with the board.");
  const recall = chart({ title: "Recall@20 of events not yet learned", lead: "Ticks at the bottom are promotions", format: three, height: 300 });
  const gain = chart({ title: "What teachers add to the student", lead: "Recall@20, beside the same student on events alone; the band is one standard error", format: signed, height: 190, zero: true });
  const says = chart({ title: "Each teacher's say", lead: "Its weight in the mixture that best foretells the newest events", format: percent, height: 190, zero: true });
  const happened = happenings();
  const charts = h("div", { class: "stack" }, recall.node, h("div", { class: "two" }, gain.node, says.node), happened.node);
  root.append(h("div", {}, headline, lead), empty, charts);

  function update() {
    const { at_ms: xs, series } = live.course;
    empty.hidden = xs.length > 0 || !live.frame;
    charts.hidden = !xs.length;
    if (!xs.length) return;
    const marks = allMarks(live.course, live.frame?.live?.student || "default");
    recall.set(scores(series), xs, marks);
    const { gain: middle, gain_error: error } = series;
    gain.node.hidden = !middle;
    if (middle) {
      const edge = (sign) => middle.map((value, at) => (value === null ? null : value + sign * (error?.[at] ?? 0)));
      gain.set([{ name: "Gain", color: "--series-1", width: 2.25, values: middle, band: [edge(-1), edge(1)] }], xs, marks.filter((mark) => mark.kind !== "promoted"));
    }
    const weights = named(series, "weight/");
    says.node.hidden = !weights.length;
    if (weights.length) {
      const lines = weights.map(([name, values], place) => ({ name: model(`teachers.${name}`), color: COLORS[place % COLORS.length], values, width: 2 }));
      says.set(lines, xs, marks.filter((mark) => mark.kind === "refresh"));
    }
    happened.set(marks);
    say(headline, verdict(series));
  }

  return {
    update,
    leave() {
      for (const one of [recall, gain, says]) one.leave();
    },
  };
}

// The marks of the charts once more as text: for whoever does not see them, and for those that stood too close to be named.
function happenings() {
  const list = h("ol", { class: "happened" });
  const lead = h("p", { class: "soft small" });
  const node = h("section", { class: "card", "aria-labelledby": "happened" }, h("h2", { id: "happened" }, "What happened"), lead, list);
  let drawn = "";
  return {
    node,
    set(marks) {
      const named = marks.filter((mark) => mark.kind !== "promoted");
      say(lead, `Besides ${several(marks.length - named.length, "promotion", "promotions")} by the gate, the newest first`);
      const shown = named.slice(-HAPPENED).reverse();
      const now = JSON.stringify(shown);
      if (now === drawn) return;
      drawn = now;
      list.replaceChildren(...shown.map((mark) => h("li", {}, h("span", { class: "soft num" }, time(mark.at_ms)), h("span", { class: `dot ${mark.kind}`, "aria-hidden": "true" }), h("span", {}, mark.label))));
    },
  };
}

function named(series, prefix) {
  return Object.entries(series).filter(([name]) => name.startsWith(prefix)).map(([name, values]) => [name.slice(prefix.length), values]);
}

function scores(series) {
  const order = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : name.includes("popular") ? 9 : 5);
  const found = named(series, "score/").filter(([name]) => !LEFT.has(name)).sort(([one], [other]) => order(one) - order(other) || one.localeCompare(other));
  let next = 0;
  return found.map(([name, values]) => ({ name: model(name), values, ...(FIXED[name] ?? { color: COLORS[next++ % COLORS.length] }) }));
}

function labelOf({ kind, what }) {
  if (kind === "refresh") return `${what} refreshed`;
  if (kind === "alarm") return ALARMS[what] ?? what;
  return `${MARKS[kind] ?? kind}${what ? ` ${what}` : ""}`;
}

// A promotion is a step of its counter; ticks say where.
function allMarks({ at_ms: xs, series, marks }, student) {
  const promoted = series[`promoted/${student}`] ?? [];
  const ticks = xs.filter((_, at) => at && promoted[at] !== null && promoted[at - 1] !== null && promoted[at] > promoted[at - 1]);
  return [
    ...marks.map((mark) => ({ ...mark, label: labelOf(mark) })),
    ...ticks.map((at_ms) => ({ at_ms, kind: "promoted", label: "" })),
  ];
}

function verdict(series) {
  if (Math.max(0, ...(series.queries ?? [])) < LEAST_QUERIES) return "Is it learning? Too few queries yet to say";
  const gain = series.gain?.at(-1) ?? null;
  const error = series.gain_error?.at(-1) ?? 0;
  const student = series["score/student"]?.at(-1) ?? null;
  const popular = series["score/recent_popular"]?.at(-1) ?? series["score/popular"]?.at(-1) ?? null;
  if (student === null) return "Is it learning?";
  const isBetter = popular !== null && student > popular;
  const better = isBetter ? "Better than what is popular" : "Not better than what is popular yet";
  if (gain === null) return better;
  if (gain > 2 * error) return `${better}, and teachers help`;
  return gain < -2 * error ? `${better}, and teachers do harm just now` : `${better}; what teachers add is within chance`;
}

export const learning = { id: "learning", name: "Learning", mount };
