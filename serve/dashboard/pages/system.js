// System: the machine of the replica that answers, its processes with their memory, the Ray cluster, and what is installed.

import { asker } from "../asking.js";
import { h, say } from "../dom.js";
import { bytes, number, several, share } from "../words.js";

const EVERY_S = 5;
const SHOWN = 30;
const SIZES = new Set(["memory", "object_store_memory"]);
const NAMES = { CPU: "CPUs that Ray has given", GPU: "GPUs that Ray has given", memory: "Memory that Ray has promised", object_store_memory: "Ray's object store" };
const NAMES_OF_PROCESSES = {
  Server: "This server",
  Host: "Stream: student, teachers or statistics",
  RayReads: "Stream: reader",
  ServeController: "Serve: controller",
  ProxyActor: "Serve: proxy",
  HAProxyManager: "Serve: proxy's manager",
  IDLE: "Ray: idle worker",
  DashboardAgent: "Ray: agent",
  RuntimeEnvAgent: "Ray: environments",
};

function mount(root, { ask }) {
  const headline = h("h1", {}, "System");
  const lead = h("p", { class: "lead" }, "Looking…");
  const failed = h("p", { class: "error", role: "alert", hidden: true });
  const meters = h("dl", { class: "meters" });
  const resources = h("section", { class: "card", "aria-labelledby": "resources" }, h("h2", { id: "resources" }, "Resources"), meters);
  const processes = table("processes", "Processes", ["Process", "Number", "Memory", ""]);
  const nodes = table("nodes", "Nodes of the Ray cluster", ["Node", "CPUs", "GPUs", "Memory", "Object store"]);
  const installed = h("dl", { class: "packages" });
  const packages = h("section", { class: "card", "aria-labelledby": "packages" }, h("h2", { id: "packages" }, "Versions"), installed);
  root.append(h("div", {}, headline, lead), failed, resources, processes.node, nodes.node, packages);
  const state = asker(ask, "v1/system", EVERY_S, draw);

  function draw() {
    say(failed, state.error);
    failed.hidden = !state.error;
    const { data } = state;
    if (!data) return;
    const { host } = data;
    const used = data.processes.reduce((total, one) => total + one.bytes, 0);
    say(headline, `${bytes(used)} in ${several(data.processes.length, "process", "processes")}`);
    say(lead, `On ${host.name}, the machine of the replica ${data.replica}.`);
    const all = [
      ["Memory of this machine", host.memory_bytes - host.available_bytes, host.memory_bytes, bytes],
      ["Load of this machine", host.load, host.cpus, number],
      ...order(data.resources).map((one) => [NAMES[one.name] ?? `Ray's ${one.name}`, one.total - one.free, one.total, SIZES.has(one.name) ? bytes : number]),
    ];
    meters.replaceChildren(...all.map(([name, value, most, format]) => meter(name, value, most, format)));
    const most = Math.max(1, ...data.processes.map((one) => one.bytes));
    const shown = data.processes.slice(0, SHOWN);
    processes.set(shown.map((one) => [NAMES_OF_PROCESSES[one.name] ?? one.name.replace(/^ServeReplica:/, "Serve: "), String(one.pid), `${bytes(one.bytes)}${one.kind === "rss" ? " at most" : ""}`, bar(one.bytes / most)]));
    const rest = data.processes.slice(SHOWN);
    const left = rest.length ? `; ${several(rest.length, "smaller one", "smaller ones")} with ${bytes(rest.reduce((total, one) => total + one.bytes, 0))} are not shown` : "";
    processes.say(`On this machine: streamrec, Ray and an embedded Kafka, each with its share of what several use (PSS)${left}`);
    nodes.node.hidden = !data.nodes.length;
    nodes.set(data.nodes.map((one) => [[`${one.name} `, one.is_head ? h("span", { class: "tag off" }, "head") : null, one.is_alive ? null : h("span", { class: "tag off bad" }, "gone")], number(one.cpus), number(one.gpus), bytes(one.memory_bytes), bytes(one.store_bytes)]));
    installed.replaceChildren(...data.packages.map((one) => h("div", {}, h("dt", {}, one.name), h("dd", { class: "num" }, one.version))));
  }

  return { update: () => state.look(), leave: state.leave };
}

// Memory is promised to those who ask for it by number; where nobody does, its meter says nothing.
function order(resources) {
  const names = Object.keys(NAMES);
  const place = (one) => (names.includes(one.name) ? names.indexOf(one.name) : names.length);
  return resources.filter((one) => one.name !== "memory" || one.free < one.total).sort((one, other) => place(one) - place(other));
}

function meter(name, value, most, format) {
  const part = most > 0 ? Math.min(1, value / most) : 0;
  return h("div", {}, h("dt", {}, name), h("dd", {}, format(value), h("span", { class: "soft" }, ` of ${format(most)}`)), h("dd", { class: "more" }, bar(part, part > 0.9), share(part)));
}

function bar(part, isHigh = false) {
  const fill = h("span", { class: isHigh ? "fill high" : "fill" });
  fill.style.width = `${100 * part}%`;
  return h("span", { class: "track", "aria-hidden": "true" }, fill);
}

function table(id, title, columns) {
  const body = h("tbody");
  const isNum = (place) => place && columns[place];
  const head = h("tr", {}, ...columns.map((name, place) => h("th", { scope: "col", class: isNum(place) ? "num" : null }, name || h("span", { class: "hidden" }, "As a bar"))));
  const lead = h("p", { class: "soft small", hidden: true });
  const node = h(
    "section",
    { class: "card", "aria-labelledby": id },
    h("h2", { id }, title),
    lead,
    h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, h("table", { class: id }, h("caption", { class: "hidden" }, title), h("thead", {}, head), body)),
  );
  return {
    node,
    say(text) {
      say(lead, text);
      lead.hidden = false;
    },
    set(rows) {
      body.replaceChildren(...rows.map((cells) => h("tr", {}, ...cells.map((cell, place) => h("td", { class: isNum(place) ? "num" : null }, cell)))));
    },
  };
}

export const system = { id: "system", name: "System", mount };
