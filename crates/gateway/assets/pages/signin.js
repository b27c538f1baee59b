// Sign in: a key for a session. The key goes to the server once and is kept nowhere here.

import { ApiFailure, send } from "../lib/api.js";
import { el } from "../lib/dom.js";
import { failureBox } from "../lib/parts.js";
import { forgetSession } from "../lib/session.js";

/** Only ways back into these pages are followed. */
const back = (next) => (next && /^\/(?!\/|sign-in)/.test(next) && !next.includes("\\") ? next : "/");

export function mount(view, context) {
  const place = el("div", {});
  const key = el("input", { name: "key", type: "password", required: true, autocomplete: "current-password", spellcheck: false, placeholder: "ewk_…" });
  const button = el("button", { type: "submit" }, "Sign in");
  const form = el(
    "form",
    {},
    el("label", { class: "field" }, el("span", {}, "Key"), key),
    place,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    place.replaceChildren();
    try {
      await send("POST", "/v1/session", { key: key.value.trim() });
      key.value = "";
      forgetSession();
      await context.go(back(context.query.get("next")), { replace: true });
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      place.replaceChildren(failureBox(error));
      key.select();
    } finally {
      button.disabled = false;
    }
  });
  view.append(
    el(
      "div",
      { class: "sign" },
      el(
        "section",
        { class: "panel", "aria-labelledby": "signin-title" },
        el("p", { class: "brand" }, el("img", { src: "/assets/icon.svg", alt: "", width: 30, height: 30 }), el("span", {}, "Edgewise")),
        el("h1", { id: "signin-title", tabindex: "-1" }, "Sign in"),
        el("p", { class: "note" }, "This server needs a key. Its operator makes one with ", el("code", {}, "edgewise keys create"), "."),
        form,
      ),
    ),
  );
  key.focus();
}
