// Sends the key once, in exchange for the cookie of a session, and goes back to where the reader came from.

const form = document.getElementById("sign-in");
const key = document.getElementById("key");
const message = document.getElementById("message");

// Only paths of this server: `next` may come from a link that somebody else made.
function destination() {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  const url = new URL(next, location.origin);
  return url.origin === location.origin && next.startsWith("/") ? url.pathname + url.search + url.hash : "/";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  message.textContent = "";
  try {
    const response = await fetch("/v1/session", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ key: key.value }),
    });
    if (response.ok) {
      location.replace(destination());
      return;
    }
    const body = await response.json().catch(() => null);
    message.textContent = body?.error?.message ?? `The server answered ${response.status}.`;
  } catch {
    message.textContent = "The server can't be reached.";
  }
  key.select();
});
