// Stream: what became of each record, how far each partition is read, and the records that were rejected.

import { asker } from "../asking.js";
import { chart } from "../charts.js";
import { sure } from "../dialogs.js";
import { h, say } from "../dom.js";
import { series, sum } from "../numbers.js";
import { bytes, number, several, share, when } from "../words.js";

const SHOWN = 50;
// A rejected record is news, and each look reads the log.
const NEWS_S = 5;
const RARELY_S = 60;
const COLUMNS = [
  ["applied", "Learned", "--series-1"],
  ["pending", "Not committed yet", "--series-4"],
  ["duplicate", "Came twice", "--series-7"],
  ["late", "Too late", "--series-3"],
  ["quarantined", "Quarantined", "--series-5"],
  ["rejected", "Rejected", "--bad"],
  ["lost", "Lost", "--series-8"],
];

function mount(root, { live, ask }) {
  const headline = h("h1", {}, "Stream");
  const lead = h("p", { class: "lead" });
  const empty = h("p", { class: "note" }, "No stream has told this server's board of itself yet.");
  const held = h("p", { class: "note warn", hidden: true });
  const books = bookCard();
  const partitions = partitionCard();
  const lag = chart({ title: "Records that wait in the log", lead: "Over the last hour, or since the board began", format: number, height: 180, zero: true });
  const letters = letterCard({ live, ask });
  root.append(h("div", {}, headline, lead), empty, held, books.node, h("div", { class: "two" }, partitions.node, lag.node), letters.node);

  return {
    update() {
      const { frame, course } = live;
      if (!frame) return;
      const waiting = sum(frame, "streamrec_lag_records");
      empty.hidden = waiting !== null;
      say(headline, waiting === null ? "Stream" : waiting > 0 ? `${several(waiting, "record waits", "records wait")}` : "At the end of the log");
      say(lead, "What came in and what became of it, how far the log is read, and what was rejected.");
      const isPaused = series(frame, "streamrec_held", { switch: "pause" }).some((one) => one.value > 0);
      held.hidden = !isPaused;
      say(held, "The stream is paused by order of an operator: what comes waits in the log.");
      books.update(frame);
      partitions.update(frame);
      const values = course.series.lag;
      lag.node.hidden = !values;
      if (values) lag.set([{ name: "Records", color: "--series-1", width: 2, values }], course.at_ms);
      letters.update(frame);
    },
    leave() {
      lag.leave();
      letters.leave();
    },
  };
}

// Every record that was read is in one column: the bar is whole, or something is wrong.
function bookCard() {
  const total = h("span", { class: "soft small num" });
  const bar = h("div", { class: "split", "aria-hidden": "true" });
  const legend = h("dl", { class: "columns" });
  const node = h("section", { class: "card", "aria-labelledby": "books" }, h("div", { class: "row between" }, h("h2", { id: "books" }, "The books"), total), bar, legend);
  const parts = new Map();
  return {
    node,
    update(frame) {
      const held = new Map(series(frame, "streamrec_books_records").map((one) => [one.column, one.value]));
      node.hidden = !held.size;
      const all = [...held.values()].reduce((found, value) => found + value, 0);
      say(total, `${number(all)} received since the state began`);
      for (const [column, name, color] of COLUMNS) {
        if (!held.has(column)) continue;
        if (!parts.has(column)) {
          const part = { fill: h("span"), value: h("dd"), rest: h("dd", { class: "more" }) };
          const mark = h("span", { class: "dot", "aria-hidden": "true" });
          mark.style.background = part.fill.style.background = `var(${color})`;
          parts.set(column, part);
          bar.append(part.fill);
          legend.append(h("div", {}, h("dt", {}, mark, name), part.value, part.rest));
        }
        const part = parts.get(column);
        const value = held.get(column);
        part.fill.style.flexGrow = String(value);
        part.fill.hidden = !value;
        say(part.value, number(value));
        say(part.rest, all ? share(value / all) : "");
      }
    },
  };
}

function partitionCard() {
  const body = h("tbody");
  const waits = h("td", { class: "num" });
  const columns = ["Partition", "Read to", "Ends at", "Waits"];
  const head = h("tr", {}, ...columns.map((name, place) => h("th", { scope: "col", class: place ? "num" : null }, name)));
  const table = h("table", {}, h("caption", { class: "hidden" }, "How far each partition is read"), h("thead", {}, head), body, h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "All"), h("td"), h("td"), waits)));
  const told = h("p", { class: "soft small" });
  const node = h("section", { class: "card", "aria-labelledby": "partitions" }, h("h2", { id: "partitions" }, "Topics"), told, h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Topics, as a table" }, table));
  const rows = new Map();
  return {
    node,
    update(frame) {
      const ends = series(frame, "streamrec_end_offset");
      node.hidden = !ends.length;
      const read = new Map(series(frame, "streamrec_read_offset").map((one) => [`${one.topic}/${one.partition}`, one.value]));
      say(told, `${[...new Set(ends.map((one) => one.topic))].join(", ")}: ${several(ends.length, "partition", "partitions")}`);
      for (const { topic, partition, value } of ends) {
        const place = `${topic}/${partition}`;
        if (!rows.has(place)) {
          const cells = ["read", "end", "waits"].map(() => h("td", { class: "num" }));
          rows.set(place, cells);
          body.append(h("tr", {}, h("th", { scope: "row" }, partition), ...cells));
        }
        const at = read.get(place) ?? null;
        [at, value, at === null ? null : value - at].forEach((shown, cell) => say(rows.get(place)[cell], number(shown)));
      }
      say(waits, number(sum(frame, "streamrec_end_offset") - sum(frame, "streamrec_read_offset")));
    },
  };
}

function letterCard({ live, ask }) {
  const heading = h("h2", { id: "letters" }, "Dead letters");
  const lead = h("p", { class: "soft small" });
  const reasons = h("ul", { class: "reasons", "aria-label": "How many, by reason" });
  const told = h("p", { class: "note", role: "status", hidden: true });
  const failed = h("p", { class: "error", role: "alert", hidden: true });
  const list = h("ul", { class: "letters" });
  const all = h("button", { type: "button", class: "quiet small", onclick: () => replay(fresh()) }, "Replay all shown…");
  const again = h("button", { type: "button", class: "quiet small", onclick: () => state.look(true) }, "Look again");
  const buttons = h("div", { class: "row" }, again, all);
  const node = h("section", { class: "card", "aria-labelledby": "letters" }, h("div", { class: "row between" }, heading, buttons), lead, told, failed, reasons, list);
  const state = asker(ask, `v1/stream/dead-letters?last=${SHOWN}`, NEWS_S, draw);
  let rejected = null;
  let lookedAt = -Infinity;
  let filter = "";

  const fresh = () => shown().filter((letter) => !letter.replays && !letter.missing_parts).map((letter) => letter.place);
  const shown = () => (state.data?.letters ?? []).filter((letter) => !filter || letter.reason === filter);

  async function replay(places) {
    const text = `${several(places.length, "record goes", "records go")} to the stream again as ${places.length === 1 ? "it is" : "they are"}, each once and only if it is valid now. What it does there can't be undone.`;
    if (!(await sure(places.length === 1 ? "Replay this record?" : `Replay ${places.length} records?`, text, "Replay"))) return;
    failed.hidden = told.hidden = true;
    try {
      const done = await ask("POST", "v1/stream/dead-letters:replay", { places });
      const first = done.refused[0];
      say(told, `${several(done.sent.length, "record is", "records are")} in the stream again${first ? `; ${done.refused.length} stayed, ${first.place}: ${first.why}` : ""}.`);
      told.hidden = false;
    } catch (error) {
      say(failed, error.message);
      failed.hidden = false;
    }
    state.look(true);
  }

  function draw() {
    say(failed, state.error);
    failed.hidden = !state.error;
    const { data } = state;
    if (!data) return;
    const seen = data.not_looked_at ? `of the newest ${number(data.records - data.not_looked_at)} records of ${data.topic}` : `of ${data.topic}`;
    const others = [data.left_out ? `${several(data.left_out, "letter", "letters")} of users who asked to be forgotten left out` : "", data.foreign ? `${several(data.foreign, "record", "records")} that can't be read` : ""];
    say(lead, data.letters.length ? [`The newest ${data.letters.length} ${seen}`, ...others].filter(Boolean).join("; ") : ["Nothing was rejected", ...others].filter(Boolean).join("; "));
    const counts = new Map();
    for (const letter of data.letters) counts.set(letter.reason, (counts.get(letter.reason) ?? 0) + 1);
    if (!counts.has(filter)) filter = "";
    reasons.replaceChildren(
      ...[...counts].sort(([, one], [, other]) => other - one).map(([reason, num]) => {
        const choose = () => {
          filter = filter === reason ? "" : reason;
          draw();
          reasons.querySelector(`[data-reason="${CSS.escape(reason)}"]`)?.focus();
        };
        return h("li", {}, h("button", { type: "button", class: "chip", "aria-pressed": String(filter === reason), "data-reason": reason, onclick: choose }, `${words(reason)} `, h("b", {}, String(num))));
      }),
    );
    const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.place));
    list.replaceChildren(...shown().map((letter) => entry(letter, open.has(letter.place), () => replay([letter.place]))));
    all.hidden = !fresh().length;
  }

  return {
    node,
    update(frame) {
      buttons.hidden = !live.may.move;
      if (!live.may.move) {
        say(lead, `Rejected records hold what users did. Read only: ${live.may.why || "this key does not show them"}`);
        reasons.replaceChildren();
        list.replaceChildren();
        return;
      }
      const num = sum(frame, "streamrec_events_total", { outcome: "rejected" });
      const isNews = num !== rejected;
      if (!isNews && performance.now() - lookedAt < RARELY_S * 1000) return;
      if (!state.look()) return;
      rejected = num;
      lookedAt = performance.now();
    },
    leave: state.leave,
  };
}

const words = (reason) => reason.replaceAll("_", " ");

function entry(letter, isOpen, replay) {
  const sent = letter.replays ? h("span", { class: "tag" }, "replayed") : null;
  const broken = letter.missing_parts ? h("span", { class: "tag off" }, `${letter.missing_parts} parts missing`) : null;
  const summary = h(
    "summary",
    {},
    h("span", { class: "reason" }, words(letter.reason)),
    h("span", { class: "detail" }, letter.detail || letter.means),
    h("span", { class: "soft small num whole" }, `${bytes(letter.bytes)}, ${when(letter.time_ms)}`),
    sent,
    broken,
  );
  const facts = [
    ["Means", letter.means],
    ["Place", letter.place],
    ["Key", letter.key ?? "none"],
    ["Bytes", `${number(letter.bytes)}${letter.form === "hex" ? ", no text: as hex" : ""}${letter.is_cut ? ", the first ones are shown" : ""}`],
  ];
  const shown = h("pre", { tabindex: "0", role: "region", "aria-label": `Bytes of ${letter.place}` }, letter.text || "no bytes");
  const button = letter.missing_parts ? null : h("button", { type: "button", class: "quiet small", "aria-label": `Replay ${letter.place}`, onclick: replay }, "Replay…");
  const again = letter.replays ? h("p", { class: "soft small" }, "It was sent again before. `streamrec dlq replay --again` sends it once more.") : button;
  return h("li", {}, h("details", { open: isOpen, "data-place": letter.place }, summary, h("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])), shown, h("div", { class: "row" }, again)));
}

export const stream = { id: "stream", name: "Stream", mount };
