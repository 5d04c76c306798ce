// Ask in a dialog; each returns a promise of what was given, null where it was left.

import { h } from "./dom.js";

function open(title, body, buttons, check) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" });
    let given = null;
    const end = (value) => {
      given = value;
      dialog.close();
    };
    const leave = h("button", { type: "button", class: "quiet", onclick: () => end(null) }, "Leave it");
    const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), ...body, h("div", { class: "row" }, leave, ...buttons(end)));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = check();
      if (value) end(value);
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
    dialog.append(form);
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("input") ?? form.querySelector("button")).focus();
  });
}

/** Return a key, "" to forget the one that is there. */
export function askForKey(why, has) {
  const input = h("input", { type: "password", id: "the-key", autocomplete: "off", spellcheck: "false" });
  const text = why || "It is sent with each request and forgotten when this tab is closed. Moving versions takes a key with scope admin.";
  const body = [h("p", { class: why ? "error" : "soft" }, text), h("div", {}, h("label", { for: "the-key" }, "Key"), input)];
  // No button that submits: pressing Enter takes the first of those.
  const forget = (end) => (has ? [h("button", { type: "button", class: "quiet", onclick: () => end("") }, "Forget it")] : []);
  return open("Key of this server", body, (end) => [...forget(end), h("button", {}, "Use this key")], () => input.value.trim());
}

/** Return the reason that a person gives for what they confirm. */
export function confirm(title, text, action) {
  const reason = h("input", { id: "the-reason", required: true, maxlength: "200", autocomplete: "off" });
  const body = [h("p", { class: "soft" }, text), h("div", {}, h("label", { for: "the-reason" }, "Why? It is kept in the history"), reason)];
  return open(title, body, () => [h("button", {}, action)], () => reason.value.trim());
}

/** Return whether a person wants what they are told of. */
export async function sure(title, text, action) {
  return (await open(title, [h("p", { class: "soft" }, text)], () => [h("button", {}, action)], () => true)) === true;
}
