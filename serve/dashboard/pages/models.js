// Models: what is live and what was before, what the gate said of versions and what they were made of, and the two moves a person makes.

import { confirm } from "../dialogs.js";
import { h, say } from "../dom.js";
import { ownMetrics, verdicts } from "../verdicts.js";
import { number, seconds, time } from "../words.js";

function mount(root, { live, ask }) {
  const cards = h("div", { class: "two" });
  const told = h("p", { class: "note", role: "status", hidden: true });
  const failed = h("p", { class: "error", role: "alert", hidden: true });
  const moves = h("section", { class: "card", "aria-labelledby": "moves" });
  const body = h("tbody");
  const columns = ["Promotion", "Version", "Reached all in", "Replicas", ""];
  const head = h("tr", {}, ...columns.map((name, place) => h("th", { scope: "col", class: place === 2 || place === 3 ? "num" : null }, name || h("span", { class: "hidden" }, "Move"))));
  const table = h("table", {}, h("caption", { class: "hidden" }, "The last swaps, newest first"), h("thead", {}, head), body);
  const judged = verdicts(ask);
  const swaps = h("section", { class: "card", "aria-labelledby": "swaps" }, h("h2", { id: "swaps" }, "The last swaps"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The last swaps, as a table" }, table));
  root.append(
    h("div", {}, h("h1", {}, "Models"), h("p", { class: "lead" }, "Versions of the student. The gate promotes them by numbers; a person may move them, too.")),
    told,
    failed,
    cards,
    moves,
    ...judged.nodes,
    swaps,
  );
  let drawn = "";

  async function move(title, text, action, path) {
    const reason = await confirm(title, text, action);
    if (reason === null) return;
    failed.hidden = told.hidden = true;
    try {
      const done = await ask("POST", path, { reason });
      say(told, `${done.version} is live by your order (move ${done.number}); replicas follow within a moment.`);
      told.hidden = false;
    } catch (error) {
      say(failed, error.message);
      failed.hidden = false;
    }
  }

  const promote = (version) =>
    move(`Promote ${version}?`, `${version} goes live on all replicas. The gate may promote another version after it; pin it on the command line if it is to stay.`, `Promote ${version}`, `v1/models/${encodeURIComponent(version)}:promote`);
  const rollBack = () =>
    move("Roll back?", `${live.frame?.live?.model_version ?? "The live version"} is taken out, and the version that was live before it goes live again.`, "Roll back", "v1/models:rollback");

  function drawMoves() {
    const heading = h("h2", { id: "moves" }, "Move by hand");
    if (!live.may.move) {
      moves.replaceChildren(heading, h("p", { class: "soft" }, `Read only: ${live.may.why || "this key does not move models"}`));
      return;
    }
    const input = h("input", { id: "version", autocomplete: "off", spellcheck: "false", placeholder: "v00000012", required: true });
    const form = h("form", { class: "row end" }, h("div", {}, h("label", { for: "version" }, "Version"), input), h("button", { class: "quiet" }, "Promote…"), h("button", { type: "button", onclick: rollBack }, "Roll back…"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (input.value.trim()) promote(input.value.trim());
    });
    moves.replaceChildren(heading, form);
  }

  function update() {
    const { frame } = live;
    if (!frame) return;
    judged.update(frame);
    const recent = [...live.course.swaps].reverse();
    const now = JSON.stringify([frame.live?.digest, frame.live?.model_version, frame.previous?.digest, recent, live.may]);
    for (const age of cards.querySelectorAll("[data-made]")) say(age, `${seconds((frame.at_ms - Number(age.dataset.made)) / 1000)} ago`);
    if (now === drawn) return;
    if (JSON.stringify(live.may) !== moves.dataset.may) {
      moves.dataset.may = JSON.stringify(live.may);
      drawMoves();
    }
    drawn = now;
    cards.replaceChildren(card("Live", frame.live, frame), card("Before", frame.previous, frame));
    const current = frame.live?.model_version;
    body.replaceChildren(
      ...recent.map((swap) =>
        h(
          "tr",
          {},
          h("td", {}, number(swap.seq)),
          h("td", { class: "whole" }, swap.version, " ", swap.version === current ? h("span", { class: "tag" }, "live") : null),
          h("td", { class: "num" }, swap.all_replicas_ms === null ? "–" : seconds(swap.all_replicas_ms / 1000)),
          h("td", { class: "num" }, number(swap.replicas)),
          h("td", { class: "num" }, live.may.move && swap.version !== current ? h("button", { type: "button", class: "quiet small", "aria-label": `Promote ${swap.version}`, onclick: () => promote(swap.version) }, "Promote…") : ""),
        ),
      ),
    );
    swaps.hidden = !recent.length;
  }

  return { update, leave: judged.leave };
}

function card(title, version, frame) {
  const tag = h("span", { class: title === "Live" ? "tag" : "tag off" }, title);
  if (!version) return h("section", { class: "card" }, h("h2", { class: "row" }, tag), h("p", { class: "soft" }, title === "Live" ? "No version is live yet." : "No version was live before."));
  const teachers = Object.entries(version.teachers ?? {});
  const facts = [
    ["Made", h("span", { "data-made": String(version.created_ms) }, `${seconds((frame.at_ms - version.created_ms) / 1000)} ago`)],
    ["At", time(version.created_ms)],
    ["Items", number(version.items)],
    version.parent ? ["Follows", version.parent] : null,
    teachers.length ? ["Learned from", teachers.map(([name, of]) => `${name} ${of}`).join(", ")] : null,
    ...ownMetrics(version.metrics, 6),
    ["Digest", String(version.digest ?? "").slice(0, 12)],
  ].filter(Boolean);
  return h(
    "section",
    { class: "card" },
    h("h2", { class: "row between" }, h("span", { class: "big" }, version.model_version), tag),
    h("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, value)])),
  );
}

export const models = { id: "models", name: "Models", mount };
