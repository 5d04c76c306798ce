// Now: the way of an event as a picture, and how fresh and how quick answers are.

import { chart } from "../charts.js";
import { h, say } from "../dom.js";
import { flow } from "../flow.js";
import { always, greatest, rate, series, spread, sum } from "../numbers.js";
import { number, seconds, several, share } from "../words.js";

const STALE_S = 15;
const OWN = new Set(["dashboard", "live", "metrics", "probe", "document"]);
const asked = { route: (route) => !OWN.has(route) };
const answers = { route: "recommend" };
const SWITCHES = { pause: "The stream is paused", "freeze-publishing": "Publishing is frozen", pin: "A version is pinned" };

function mount(root, { live }) {
  const headline = h("h1", {}, "Waiting for the first numbers");
  const lead = h("p", { class: "lead" });
  const notes = h("div", { class: "stack" });
  const picture = flow(["Events", "Learn", "Publish", "Replicas"]);
  const tiles = new Map();
  const list = h("dl", { class: "tiles" });
  for (const [name, title] of [
    ["state", "Events are in histories within"],
    ["model", "Learned and live within"],
    ["lag", "Lag"],
    ["step", "A step of learning takes"],
    ["swap", "Last swap reached all in"],
    ["answers", "Answers take"],
    ["errors", "Errors"],
    ["source", "Answered by the student"],
  ]) {
    const value = h("dd", {}, "–");
    const more = h("dd", { class: "more" });
    tiles.set(name, { value, more });
    list.append(h("div", {}, h("dt", {}, title), value, more));
  }
  const rates = chart({ title: "Events and requests a second", lead: "While this page is open", format: number, height: 200, zero: true });
  root.append(h("div", {}, headline, lead), notes, h("div", {}, picture.node), list, rates.node);
  picture.set(["Events", "Learn", "Publish", "Replicas"].map(() => ({ value: "–", unit: "", runs: false })));

  function put(name, value, more = "", bad = false) {
    const tile = tiles.get(name);
    say(tile.value, value);
    say(tile.more, more);
    tile.value.className = bad ? "bad" : "";
  }

  function update() {
    const { frames, frame, bounds } = live;
    if (!frame) return;
    const seen = read(frames, frame, bounds);
    say(headline, seen.headline);
    say(lead, seen.lead);
    const told = seen.notes.join("|");
    if (notes.dataset.told !== told) {
      notes.dataset.told = told;
      notes.replaceChildren(...seen.notes.map((note) => h("p", { class: "note warn" }, note)));
    }
    notes.hidden = !seen.notes.length;
    picture.set(seen.boxes);
    put("state", seconds(seen.state.quantiles?.[0]), fresh(seen.state));
    put("model", seconds(seen.model.quantiles?.[0]), fresh(seen.model));
    const span = (frame.at_ms - frames[0].at_ms) / 1000;
    const late = (overS) => (span < overS ? "since this page is open" : `in the last ${overS === 60 ? "minute" : `${overS} s`}`);
    put("lag", number(seen.lag), seen.lag === null ? "no stream" : "events wait in the log");
    put("step", seconds(seen.step?.mean), seen.step ? "mean of the last minute" : `none ${late(60)}`);
    put("swap", seconds(sum(frame, "streamrec_swap_seconds")), several(seen.replicas, "replica", "replicas"));
    const asked30 = seen.times ? `half of ${number(seen.times.count)}; 99 % within ${seconds(seen.times.quantiles[1])}` : `nobody asked ${late(30)}`;
    put("answers", seconds(seen.times?.quantiles[0]), asked30);
    put("errors", `${number(seen.errors ?? 0)} /s`, `${number(seen.refused ?? 0)} /s refused`, seen.errors > 0);
    put("source", share(seen.student), seen.student === null ? `nobody asked ${late(30)}` : "others got popular items");
    const line = (name, color, of) => ({ name, color, values: frames.map((_, at) => of(frames.slice(Math.max(0, at - 10), at + 1))) });
    const lines = [
      line("Requests", "--series-1", (some) => rate(some, "streamrec_requests_total", asked, 5)),
      line("Events", "--series-2", (some) => rate(some, "streamrec_events_total", {}, 5)),
    ];
    rates.set(lines, frames.map((one) => one.at_ms));
  }

  return {
    update,
    leave() {
      picture.leave();
      rates.leave();
    },
  };
}

// Of the last minute, else of all that a replica has timed: a stream to which nothing comes was as fresh as its last events.
function freshness(frames, frame, bounds, name) {
  const late = spread(frames, bounds, name, {}, [0.5, 0.95], 60);
  return late ?? { ...always(frame, bounds, name, {}, [0.5, 0.95]), isOld: true };
}

function fresh({ quantiles, isOld }) {
  if (!quantiles) return "none came since the replicas began";
  return `half of them; 95 % within ${seconds(quantiles[1])}${isOld ? ", since the replicas began" : ""}`;
}

function read(frames, frame, bounds) {
  const of = (name, where, overS) => rate(frames, name, where, overS);
  const age = frame.live ? Math.max(0, (frame.at_ms - frame.live.created_ms) / 1000) : null;
  const lag = sum(frame, "streamrec_lag_records");
  const step = spread(frames, bounds, "streamrec_step_seconds", {}, [0.5], 60);
  const told = greatest(frame, "streamrec_told_age_seconds", { source: "stream" });
  const replicas = sum(frame, "streamrec_replicas") ?? series(frame, "streamrec_model_promotion").length;
  const events = of("streamrec_events_total");
  const requests = of("streamrec_requests_total", asked);
  const steps = of("streamrec_steps_total");
  const promoted = sum(frame, "streamrec_versions_total", { outcome: "promoted" });
  const rejected = sum(frame, "streamrec_versions_total", { outcome: "rejected" });
  const held = series(frame, "streamrec_held").filter((one) => one.value > 0);
  const isStale = told !== null && told > STALE_S;
  const student = of("streamrec_answers_total", { source: "student" }, 30);
  const answered = of("streamrec_answers_total", {}, 30);
  const notes = held.map((one) => `${SWITCHES[one.switch] ?? one.switch}, by order of an operator.`);
  if (isStale) notes.unshift(`The stream has said nothing for ${seconds(told)}: what it counts is from then.`);
  const version = frame.live?.model_version;
  const isLearning = lag !== null && !isStale && !held.some((one) => one.switch === "pause");
  return {
    state: freshness(frames, frame, bounds, "streamrec_state_freshness_seconds"),
    model: freshness(frames, frame, bounds, "streamrec_model_freshness_seconds"),
    lag,
    step,
    replicas,
    notes,
    headline: version ? (isLearning ? "Learning while it serves" : "Serving, not learning just now") : "No version is live yet",
    lead: version
      ? `${version} answers${lag === null ? "; no stream has told this server of itself" : `, and the stream ${lag > 0 ? `has ${several(lag, "event", "events")} before it` : "is at the end of the log"}`}.`
      : "As soon as one is promoted, answers come from it.",
    times: spread(frames, bounds, "streamrec_request_seconds", answers, [0.5, 0.99]),
    errors: of("streamrec_requests_total", { ...asked, status: (status) => status.startsWith("5") }),
    refused: of("streamrec_requests_total", { ...asked, status: (status) => status.startsWith("4") }),
    student: answered ? (student ?? 0) / answered : null,
    boxes: [
      { value: number(events), unit: "events a second", more: `${number(sum(frame, "streamrec_books_records", { column: "applied" }))} learned so far`, runs: events > 0 },
      { value: number(steps), unit: "steps a second", more: lag === null ? "no stream" : `${number(lag)} wait`, runs: steps > 0 },
      { value: version ?? "none", unit: promoted === null ? "is live" : `live, ${number(promoted)} promoted`, more: rejected === null ? `${seconds(age)} old` : `${number(rejected)} rejected, ${seconds(age)} old`, runs: promoted > 0 && age < 60 },
      { value: number(requests), unit: "requests a second", more: several(replicas, "replica", "replicas"), runs: false },
    ],
  };
}

export const now = { id: "now", name: "Now", mount };
