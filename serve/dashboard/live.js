// Keep what the server tells once a second, and the connection to it.

import { listen } from "./api.js";

const FRAMES = 150;
const POINTS = 3600;
const SHORTEST_S = 0.25;
const LONGEST_S = 15;

export class Live extends EventTarget {
  constructor() {
    super();
    this.frames = [];
    this.may = { move: false, why: "" };
    this.bounds = {};
    this.state = { kind: "connecting" };
    this.forget();
  }

  get frame() {
    return this.frames.at(-1) ?? null;
  }

  forget() {
    this.course = { at_ms: [], series: {}, marks: [], swaps: [] };
  }

  /** Read for as long as the page is open; a second call begins anew, with another key. */
  async run() {
    this.stop?.abort();
    const stop = (this.stop = new AbortController());
    let pauseS = SHORTEST_S;
    while (!stop.signal.aborted) {
      let error = null;
      let hasFrame = false;
      try {
        await listen("v1/live", stop.signal, (event, data) => {
          this.take(event, data);
          hasFrame ||= event === "frame";
        });
      } catch (caught) {
        error = caught;
      }
      if (stop.signal.aborted) return;
      if (error?.status === 401 || error?.status === 403) {
        this.become({ kind: "denied", why: error.message });
        return;
      }
      // The server ends each answer after some minutes: then the next one begins, and nobody has to know.
      pauseS = hasFrame ? SHORTEST_S : Math.min(LONGEST_S, 2 * pauseS);
      if (error || !hasFrame) this.become({ kind: "lost", why: error?.status ? error.message : "", inS: pauseS });
      await new Promise((resolve) => setTimeout(resolve, pauseS * 1000));
    }
  }

  take(event, data) {
    if (event === "hello") {
      Object.assign(this, { may: data.may, bounds: data.bounds });
      this.merge(data.course);
      return;
    }
    this.merge(data.course);
    this.frames.push(data);
    if (this.frames.length > FRAMES) this.frames.shift();
    this.become({ kind: "live" });
    this.dispatchEvent(new Event("frame"));
  }

  become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  // Frames look back a little, so that none is missed; what is there already is left.
  merge(more) {
    const { course } = this;
    if (!more?.at_ms) return;
    const last = course.at_ms.at(-1) ?? 0;
    const lastMark = course.marks.at(-1)?.at_ms ?? 0;
    more.at_ms.forEach((at, place) => {
      if (at <= last) return;
      course.at_ms.push(at);
      for (const name of Object.keys(more.series)) course.series[name] ??= Array(course.at_ms.length - 1).fill(null);
      for (const [name, values] of Object.entries(course.series)) values.push(more.series[name]?.[place] ?? null);
    });
    course.marks.push(...more.marks.filter((mark) => mark.at_ms > lastMark));
    if (more.swaps) course.swaps = more.swaps;
    const over = course.at_ms.length - POINTS;
    if (over > 0) for (const values of [course.at_ms, ...Object.values(course.series)]) values.splice(0, over);
  }
}
