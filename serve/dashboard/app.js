// The shell: which page is shown, how the connection is, and the key.

import { ask, key } from "./api.js";
import { askForKey } from "./dialogs.js";
import { h, say } from "./dom.js";
import { Live } from "./live.js";
import { PAGES } from "./pages.js";

const live = new Live();
const main = document.getElementById("main");
const status = document.getElementById("status");
let shown = null;

const links = new Map(PAGES.map((page) => [page.id, h("a", { href: `#${page.id}` }, page.name)]));
document.getElementById("nav").append(...[...links.values()].map((link) => h("li", {}, link)));

function show(focus) {
  const page = PAGES.find((one) => `#${one.id}` === location.hash) ?? PAGES[0];
  shown?.leave?.();
  for (const [id, link] of links) {
    if (id === page.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${page.name} · streamrec`;
  const root = h("div", { class: "stack" });
  main.replaceChildren(root);
  shown = page.mount(root, { live, ask });
  shown.update?.();
  if (focus) main.focus({ preventScroll: true });
}

function tellState() {
  const { kind, inS } = live.state;
  status.className = `status ${kind === "live" ? "live" : "lost"}`;
  if (kind === "connecting") status.className = "status";
  const words = { live: "Live", connecting: "Connecting", denied: "A key is needed", lost: `Lost, asking again in ${Math.ceil(inS ?? 0)} s` };
  say(status, words[kind]);
  status.title = live.state.why ?? "";
}

async function changeKey(why) {
  const given = await askForKey(why, Boolean(key.get()));
  if (given === null) return;
  if (given) key.set(given);
  else key.forget();
  live.forget();
  live.run();
}

let wasDenied = false;
live.addEventListener("state", () => {
  tellState();
  const denied = live.state.kind === "denied";
  if (denied && !wasDenied) changeKey(live.state.why).finally(() => (wasDenied = false));
  wasDenied = denied;
});
live.addEventListener("frame", () => shown?.update?.());
document.getElementById("key").addEventListener("click", () => changeKey(""));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => show(true));

tellState();
show(false);
live.run();
