// Who is looking, and what they may see. Found out once, and again after signing in or out.

import { getJson } from "./api.js";

let asked = null;

/** { tenant, key, scopes, operator, keys_needed }. */
export function session() {
  if (!asked) {
    asked = getJson("/v1/session");
    asked.catch(() => forgetSession());
  }
  return asked;
}

export function forgetSession() {
  asked = null;
}

/** What a session may do, in the words of the pages. */
export const rights = ({ scopes, operator }) => ({
  /** See requests, budgets and what goes on. */
  watch: scopes.includes("admin"),
  /** Change collections. */
  write: scopes.includes("ingest"),
  /** See all tenants, and figures of the whole engine. */
  operator,
});
