// Try it: what a user, or a history, is recommended, and why; the answer before and after a swap side by side.

import { h, say } from "../dom.js";
import { seconds, several } from "../words.js";

const SHOWN = 8;
const BARS = 5;
// A stream may promote every two seconds: nobody reads that quickly, and each answer is a request.
const AGAIN_MS = 5000;
const titles = new Map();
let last = { user: "", items: "" };

function mount(root, { live, ask }) {
  const user = h("input", { id: "user", autocomplete: "off", spellcheck: "false", value: last.user });
  const items = h("input", { id: "items", autocomplete: "off", spellcheck: "false", value: last.items, placeholder: "i1, i2" });
  const button = h("button", {}, "Recommend");
  const follows = h("input", { type: "checkbox", id: "follows", checked: true });
  const form = h(
    "form",
    { class: "card ask" },
    h("div", {}, h("label", { for: "user" }, "User"), user),
    h("div", {}, h("label", { for: "items" }, "or items, the newest last"), items),
    h("div", {}, button),
    h("div", { class: "check" }, follows, h("label", { for: "follows" }, "Ask again when another version is live")),
  );
  const told = h("p", { class: "hidden", role: "status" });
  const failed = h("p", { class: "error", role: "alert", hidden: true });
  const answers = h("div", { class: "answers" });
  const lead = "What the live version recommends, and what each score is made of. When the version changes while this page is open, the answer of before stays beside the new one.";
  root.append(h("div", {}, h("h1", {}, "Try it"), h("p", { class: "lead" }, lead)), form, failed, told, answers);

  let asked = null;
  let shown = null;
  let before = null;
  let version = null;
  let isAsking = false;
  let wanted = "";
  let askedAt = 0;

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    last = { user: user.value.trim(), items: items.value };
    const history = items.value.split(",").map((id) => id.trim()).filter(Boolean);
    if (!last.user && !history.length) {
      fail("Type a user, or an item or two.");
      return;
    }
    const same = JSON.stringify([last.user, history]);
    if (asked?.same !== same) shown = before = null;
    asked = { same, body: { n: SHOWN, explain: true, ...(last.user ? { user_id: last.user } : {}), ...(history.length ? { history } : {}) } };
    recommend("Answered");
  });

  function fail(message) {
    say(failed, message);
    failed.hidden = false;
  }

  // Whoever asks while an answer is under way is answered next.
  async function recommend(word) {
    wanted = word;
    if (isAsking) return;
    isAsking = true;
    while (wanted) {
      const why = wanted;
      wanted = "";
      askedAt = performance.now();
      failed.hidden = true;
      await answer(asked, why).catch((error) => fail(error.message));
    }
    isAsking = false;
  }

  async function answer(question, word) {
    const found = await ask("POST", "v1/recommend", question.body);
    await learnTitles(found.items, ask);
    // Somebody else was asked for meanwhile.
    if (question.same !== asked.same) return;
    if (shown && shown.model_version !== found.model_version) before = shown;
    shown = found;
    version = found.model_version;
    draw();
    say(told, `${word}: ${found.items.length} items by ${found.source}, ${found.model_version}.`);
  }

  function draw() {
    const pair = before ? [panel("Before the swap", before, null), panel("After the swap", shown, before)] : [panel("Answer", shown, null)];
    answers.className = before ? "answers pair" : "answers";
    answers.replaceChildren(...pair);
  }

  function update() {
    const now = live.frame?.live?.model_version;
    if (!follows.checked || !shown || !now || now === version || isAsking || performance.now() - askedAt < AGAIN_MS) return;
    version = now;
    recommend("After a swap");
  }

  return { update };
}

async function learnTitles(items, ask) {
  const named = new Set(items.flatMap((item) => [item.item_id, ...(item.because ?? []).map((because) => because.item_id)]));
  const unknown = [...named].filter((id) => !titles.has(id));
  await Promise.all(
    unknown.map(async (id) => {
      const found = await ask("GET", `v1/items/${encodeURIComponent(id)}`).catch(() => null);
      if (found?.title) titles.set(id, found.title);
    }),
  );
}

function panel(title, answer, before) {
  const by = answer.source === "student" ? "by the student" : `${answer.source}${answer.why ? `: ${answer.why}` : ""}`;
  const facts = `${by}, from ${several(answer.user_events, "event", "events")}; the version was ${seconds(answer.model_age_s)} old`;
  const strongest = Math.max(1e-9, ...answer.items.flatMap((item) => parts(item).map(([, value]) => Math.abs(value))));
  return h(
    "section",
    { class: "card answer", "aria-label": title },
    h("h2", {}, title, h("span", { class: "tag" }, answer.model_version)),
    h("p", { class: "soft small" }, facts),
    h("ol", {}, ...answer.items.map((item, place) => entry(item, place, strongest, before))),
  );
}

function entry(item, place, strongest, before) {
  const was = before ? before.items.findIndex((one) => one.item_id === item.item_id) : place;
  const moved = was === place ? "" : was < 0 ? "new" : was > place ? `↑ ${was - place}` : `↓ ${place - was}`;
  const title = titles.get(item.item_id);
  const why = parts(item).flatMap(([name, value]) => {
    const fill = h("span", { class: value < 0 ? "fill less" : "fill" });
    fill.style.width = `${(100 * Math.abs(value)) / strongest}%`;
    return [h("span", { class: "name", title: name }, name), h("span", { class: "track", "aria-hidden": "true" }, fill), h("span", { class: "num" }, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`)];
  });
  // Whose labels spoke for the item, to anybody, when the version learned: each teacher's share.
  const teachers = Object.entries(item.teachers ?? {}).sort(([, one], [, other]) => other - one);
  return h(
    "li",
    { class: "item" },
    h("span", { class: "rank" }, String(place + 1)),
    h("span", {}, h("span", { class: "title" }, title ?? item.item_id), title ? h("span", { class: "soft small" }, ` ${item.item_id}`) : null),
    h("span", { class: "soft small num" }, moved ? h("span", { class: "moved" }, `${moved}  `) : null, item.score.toFixed(2)),
    why.length ? h("div", { class: "why" }, ...why) : null,
    teachers.length ? h("p", { class: "by soft small" }, `In all users' newest labels by ${teachers.map(([name, part]) => `${name} ${Math.round(100 * part)} %`).join(", ")}`) : null,
  );
}

// What a score is made of, the strongest parts; the rest is one.
function parts(item) {
  if (!item.because) return [];
  const names = { bias: "liked by all", own_history: "had it before", content: "its words" };
  const found = [
    ...item.because.map(({ item_id: id, part }) => [`for ${titles.get(id) ?? id}`, part]),
    ...Object.entries(names).map(([field, name]) => [name, item[field] ?? 0]),
  ].filter(([, value]) => Math.abs(value) >= 0.005);
  found.sort(([, one], [, other]) => Math.abs(other) - Math.abs(one));
  const rest = found.slice(BARS).reduce((total, [, value]) => total + value, 0);
  return rest ? [...found.slice(0, BARS), ["all else", rest]] : found;
}

export const tryIt = { id: "try", name: "Try it", mount };
