// The public API, as any client sees it.

export class ApiFailure extends Error {
  constructor({ message, hint, type }, status = 0) {
    super(message);
    this.hint = hint;
    this.type = type;
    this.status = status;
  }
}

let signIn = () => {};
/** What is done when the server wants to know who is there. */
export const onSignInNeeded = (action) => (signIn = action);

/** The response, or an error with the server's own message. */
export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure({ message: "The server can't be reached.", hint: "Check that it still runs." });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const failure = new ApiFailure(
    body?.error ?? { message: `The server answered with status ${response.status}.` },
    response.status,
  );
  // A wrong key is for whoever typed it; everything else means that nobody has signed in, or not lately.
  const signingIn = path === "/v1/session" && options.method === "POST";
  if (response.status === 401 && !signingIn) signIn(failure);
  throw failure;
}

export const getJson = async (path, options) => (await call(path, options)).json();

export const send = (method, path, body, options = {}) =>
  call(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    ...options,
  });

/** `path?…` of those parameters that are given. */
export function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** Events of a stream: the fields `event` and `data` of the server-sent events format. */
export async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const lines = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const field = (name) =>
        lines.filter((l) => l.startsWith(`${name}:`)).map((l) => l.slice(name.length + 1).replace(/^ /, ""));
      const data = field("data").join("\n");
      if (data) yield { event: field("event")[0] ?? "message", data: JSON.parse(data) };
    }
  }
}

/** A text that can be cut by byte offsets: spans are bytes of UTF-8, strings of this language count UTF-16 units. */
export class Bytes {
  constructor(text) {
    this.bytes = new TextEncoder().encode(text);
  }
  get length() {
    return this.bytes.length;
  }
  slice(start, end) {
    return new TextDecoder().decode(this.bytes.subarray(start, end));
  }
  /** The nearest beginning of a character at or after `at`. */
  boundary(at) {
    let index = Math.max(0, Math.min(at, this.length));
    while (index < this.length && (this.bytes[index] & 0xc0) === 0x80) index += 1;
    return index;
  }
}
