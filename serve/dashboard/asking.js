// Ask now and then for what is not told once a second: one question at a time.

/**
 * Return {data, error, look, leave}. `look()` asks unless somebody did within `everyS`, or at once if told to, and says whether it asks;
 * `took` is called after each answer and each failure.
 */
export function asker(ask, path, everyS, took) {
  let askedAt = -Infinity;
  let isAsking = false;
  let isGone = false;

  async function answer() {
    isAsking = true;
    askedAt = performance.now();
    try {
      state.data = await ask("GET", path);
      state.error = "";
    } catch (error) {
      state.error = error.message;
    }
    isAsking = false;
    if (!isGone) took();
  }

  const state = {
    data: null,
    error: "",
    look(atOnce = false) {
      if (isAsking || isGone || (!atOnce && performance.now() - askedAt < everyS * 1000)) return false;
      answer();
      return true;
    },
    leave() {
      isGone = true;
    },
  };
  return state;
}
