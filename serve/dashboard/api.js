// Ask this server. The key is sent as a header that no other site can set, and is kept for this tab alone.

const KEY = "streamrec.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more) {
  return key.get() ? { ...more, "x-api-key": key.get() } : { ...more };
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  return new Refused(response.status, body?.error?.message ?? `The server answers ${response.status}`);
}

/** Return the JSON of an answer; throw `Refused` for what is none. */
export async function ask(method, path, body) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  const response = await fetch(path, { method, headers: headers({ "content-type": "application/json" }), credentials: "omit", ...sent });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** Read server-sent events until they end; `take` gets each event's name and data. */
export async function listen(path, signal, take) {
  const response = await fetch(path, { headers: headers({ accept: "text/event-stream" }), credentials: "omit", cache: "no-store", signal });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const messages = (text + value).split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const lines = message.split("\n");
      const event = lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "message";
      take(event, JSON.parse(lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n")));
    }
  }
}
