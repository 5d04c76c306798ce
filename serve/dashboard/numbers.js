// Work out rates and quantiles from counters: what they have gained between two frames.

function fits(series, where) {
  return Object.entries(where).every(([label, wanted]) => (typeof wanted === "function" ? wanted(series[label]) : series[label] === wanted));
}

/** Return the series of a metric that fit. */
export function series(frame, name, where = {}) {
  return (frame?.numbers[name] ?? []).filter((one) => fits(one, where));
}

/** Return the sum of a metric's series, null where there is none. */
export function sum(frame, name, where = {}) {
  const found = series(frame, name, where);
  return found.length ? found.reduce((total, one) => total + one.value, 0) : null;
}

/** Return the greatest of a metric's series, null where there is none. */
export function greatest(frame, name, where = {}) {
  const found = series(frame, name, where);
  return found.length ? Math.max(...found.map((one) => one.value)) : null;
}

function keyOf(one) {
  return JSON.stringify(Object.entries(one).filter(([label]) => label !== "value" && label !== "buckets"));
}

// A counter that is less than before began anew; one that was not there before counts from what it was first seen with.
function gains(within, name, where) {
  const old = new Map();
  for (const one of within.flatMap((frame) => series(frame, name, where))) if (!old.has(keyOf(one))) old.set(keyOf(one), one);
  return series(within.at(-1), name, where)
    .map((one) => {
      const was = old.get(keyOf(one));
      const anew = one.buckets ? one.buckets.some((num, place) => num < was.buckets[place]) : one.value < was.value;
      return {
        value: anew ? one.value : one.value - was.value,
        buckets: one.buckets?.map((num, place) => (anew ? num : num - was.buckets[place])),
      };
    });
}

/** Return the frames of about so many seconds, up to the newest one. */
function recent(frames, overS) {
  const last = frames.at(-1);
  return frames.filter((frame) => last.at_ms - frame.at_ms <= overS * 1000 + 500);
}

/** Return what a counter gained a second, null where nobody counts. */
export function rate(frames, name, where = {}, overS = 10) {
  const within = recent(frames, overS);
  if (within.length < 2 || !series(within.at(-1), name, where).length) return null;
  const total = gains(within, name, where).reduce((found, one) => found + one.value, 0);
  return total / ((within.at(-1).at_ms - within[0].at_ms) / 1000);
}

/** Return a histogram's quantiles and mean of late, null where nothing was shown to it. */
export function spread(frames, bounds, name, where, quantiles, overS = 30) {
  const within = recent(frames, overS);
  const limits = bounds?.[name];
  if (within.length < 2 || !limits) return null;
  const found = gains(within, name, where);
  const buckets = Array.from({ length: limits.length + 1 }, (_, place) => found.reduce((total, one) => total + one.buckets[place], 0));
  const count = buckets.reduce((total, num) => total + num, 0);
  if (!count) return null;
  const mean = found.reduce((total, one) => total + one.value, 0) / count;
  return { count, mean, quantiles: quantiles.map((share) => quantile(buckets, limits, share * count)) };
}

/** Return a histogram's quantiles of all that was ever shown to it, null where nothing was. */
export function always(frame, bounds, name, where, quantiles) {
  const limits = bounds?.[name];
  const found = limits ? series(frame, name, where) : [];
  const buckets = Array.from({ length: (limits?.length ?? 0) + 1 }, (_, place) => found.reduce((total, one) => total + one.buckets[place], 0));
  const count = buckets.reduce((total, num) => total + num, 0);
  return count ? { count, quantiles: quantiles.map((share) => quantile(buckets, limits, share * count)) } : null;
}

function quantile(buckets, limits, wanted) {
  let seen = 0;
  for (const [place, num] of buckets.entries()) {
    if (seen + num >= wanted && num) {
      if (place === limits.length) return limits.at(-1);
      const low = place ? limits[place - 1] : 0;
      return low + ((limits[place] - low) * (wanted - seen)) / num;
    }
    seen += num;
  }
  return limits.at(-1);
}
