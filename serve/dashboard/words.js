// Say numbers as people do.

const whole = new Intl.NumberFormat("en");

/** Return a number with three figures that count. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return whole.format(Math.round(value));
  return Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Return a length of time in one or two units. */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 0.0095) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} days`;
}

/** Return a number of things. */
export function several(value, one, many) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

/** Return a share in per cent. */
export function share(value) {
  return Number.isFinite(value) ? `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %` : "–";
}

/** Return the time of day. */
export function time(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

/** Return the time of day, with the day where that is not today. */
export function when(ms) {
  const then = new Date(ms);
  if (then.toDateString() === new Date().toDateString()) return time(ms);
  return `${then.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" })}, ${time(ms)}`;
}

const MODELS = {
  student: "Student",
  student_events_only: "Student without teachers",
  popular: "Popular items",
  recent_popular: "Popular of late",
  own_history: "Own history",
  ensemble: "All teachers",
};

/** Return a model's name as people say it. */
export function model(name) {
  const bare = name.replace(/^teachers\./, "");
  return MODELS[bare] ?? (bare === name ? name.replace(/^students\./, "Student ") : `Teacher ${bare}`);
}

/** Return a size in bytes, in its largest unit. */
export function bytes(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  for (; value >= 1000 && place < units.length - 1; place += 1) value /= 1000;
  return `${place && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[place]}`;
}
