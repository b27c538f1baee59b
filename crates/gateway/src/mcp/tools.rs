//! The tools.

use std::sync::Arc;

use axum::http::request::Parts;
use edgewise_types::{CollectionName, DocumentId};
use rmcp::{
    Json, Peer, RoleServer, ServerHandler,
    handler::server::{router::tool::ToolRouter, wrapper::Parameters},
    model::{Implementation, ProgressNotificationParam, ProgressToken, ServerCapabilities, ServerConfig},
    service::RequestContext,
    tool, tool_handler, tool_router,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::{
    Api, ApiEvent, ApiFailure, Credentials,
    types::{
        AskInput, AskOutput, ListInput, ListOutput, ListedCollection, ListedDocument, Passage, Quote, ReadInput,
        ReadOutput, SearchInput, SearchOutput,
    },
};

/// Most passages of a search.
const MAX_PASSAGES: usize = 100;

/// Most bytes of a document in one result: about 8,000 tokens.
const MAX_READ: usize = 32 << 10;

/// Least time between two reports of progress.
const EVERY: Duration = Duration::from_millis(250);

/// Serves the tools to one client.
#[derive(Clone)]
pub struct McpServer {
    api: Arc<dyn Api>,
    tool_router: ToolRouter<Self>,
}

impl std::fmt::Debug for McpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpServer").finish_non_exhaustive()
    }
}

/// What the request that a call came in says of its caller; nothing where there was none, as over standard input.
fn credentials(context: &RequestContext<RoleServer>) -> Credentials {
    context.extensions.get::<Parts>().map(|parts| Credentials::of(&parts.headers)).unwrap_or_default()
}

fn said(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}

/// A name that is safe in a path.
fn collection(name: &str) -> Result<CollectionName, String> {
    name.parse().map_err(said)
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn size(value: &Value, pointer: &str) -> usize {
    usize::try_from(number(value, pointer)).unwrap_or(usize::MAX)
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A value of a query string.
fn encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

// The result types are written out: the macro takes the schemas of results from them.
#[tool_router(router = tool_router)]
impl McpServer {
    /// Tools over this way to the native API.
    pub fn new(api: Arc<dyn Api>) -> Self {
        Self { api, tool_router: Self::tool_router() }
    }

    /// Find passages of a collection's documents, best first, without asking a model. Good for facts to quote; use `ask` for
    /// an answer.
    #[tool(name = "search", annotations(title = "Search documents", read_only_hint = true, open_world_hint = false))]
    async fn search(
        &self,
        Parameters(input): Parameters<SearchInput>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<SearchOutput>, String> {
        let limit = input.limit.unwrap_or(10);
        if !(1..=MAX_PASSAGES).contains(&limit) {
            return Err(format!("limit must be between 1 and {MAX_PASSAGES}, not {limit}"));
        }
        let mut body = json!({"query": input.query, "limit": limit});
        if let Some(filter) = input.filter {
            body["filter"] = json!(filter);
        }
        let path = format!("/v1/collections/{}/search", collection(&input.collection)?);
        let found = self.api.post(&credentials(&context), path, body).await.map_err(said)?;
        let passage = |hit: &Value| Passage {
            document: text(hit, "/chunk/document"),
            uri: text(hit, "/uri"),
            title: text(hit, "/title"),
            heading_path: texts(hit, "/chunk/heading_path"),
            start: size(hit, "/chunk/span/start"),
            end: size(hit, "/chunk/span/end"),
            text: text(hit, "/chunk/text"),
            score: hit.get("score").and_then(Value::as_f64).unwrap_or(0.0),
        };
        Ok(Json(SearchOutput { passages: list(&found, "/hits").iter().map(passage).collect() }))
    }

    /// Answer a question from a collection's documents, with quotes that support the answer. Says so when the documents do
    /// not hold it.
    #[tool(name = "ask", annotations(title = "Ask documents", read_only_hint = true, open_world_hint = false))]
    async fn ask(
        &self,
        Parameters(input): Parameters<AskInput>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<AskOutput>, String> {
        let mut body =
            json!({"collection": collection(&input.collection)?, "question": input.question, "stream": true});
        let optional = [
            ("route", input.route.map(Value::from)),
            ("filter", input.filter.map(Value::from)),
            ("max_output_tokens", input.max_output_tokens.map(Value::from)),
            ("conversation", input.conversation.map(Value::from)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        let asked = self.api.stream(&credentials(&context), "/v1/query".to_owned(), body);
        let mut events = asked.await.map_err(said)?;
        let mut progress = Progress::new(context.meta.get_progress_token(), context.peer.clone());
        loop {
            let event = tokio::select! {
                () = context.ct.cancelled() => return Err("the call was cancelled".to_owned()),
                event = events.recv() => event,
            };
            match event {
                None => return Err("the answer ended without a result: ask again".to_owned()),
                Some(Err(failure)) => return Err(said(failure)),
                Some(Ok(ApiEvent { name, data })) => match name.as_str() {
                    "done" => return Ok(Json(answer(&data))),
                    "error" => return Err(said(super::sentence(500, &data))),
                    name => progress.saw(name, &data).await,
                },
            }
        }
    }

    /// List the collections there are, or the documents of one.
    #[tool(
        name = "list",
        annotations(title = "List collections or documents", read_only_hint = true, open_world_hint = false)
    )]
    async fn list(
        &self,
        Parameters(input): Parameters<ListInput>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<ListOutput>, String> {
        let ListInput { collection: name, filter, limit, cursor } = input;
        let mut query = format!("?limit={}", limit.unwrap_or(100));
        if let Some(cursor) = cursor {
            query = format!("{query}&cursor={}", encoded(&cursor));
        }
        let credentials = credentials(&context);
        let Some(name) = name else {
            if filter.is_some() {
                return Err("`filter` needs a `collection`, whose documents it filters".to_owned());
            }
            let found = self.api.get(&credentials, format!("/v1/collections{query}")).await.map_err(said)?;
            let collection = |stats: &Value| ListedCollection {
                name: text(stats, "/name"),
                documents: number(stats, "/documents"),
                tokens: number(stats, "/tokens"),
            };
            let collections = Some(list(&found, "/collections").iter().map(collection).collect());
            return Ok(Json(ListOutput { collections, documents: None, next: next(&found) }));
        };
        if let Some(filter) = filter {
            query = format!("{query}&filter={}", encoded(&filter));
        }
        let path = format!("/v1/collections/{}/documents{query}", collection(&name)?);
        let found = self.api.get(&credentials, path).await.map_err(said)?;
        let document = |document: &Value| ListedDocument {
            document: text(document, "/id"),
            uri: text(document, "/uri"),
            title: text(document, "/title"),
            tokens: number(document, "/tokens"),
        };
        let documents = Some(list(&found, "/documents").iter().map(document).collect());
        Ok(Json(ListOutput { collections: None, documents, next: next(&found) }))
    }

    /// Read a document's text, or the part of it that a passage or quote comes from.
    #[tool(name = "read", annotations(title = "Read a document", read_only_hint = true, open_world_hint = false))]
    async fn read(
        &self,
        Parameters(input): Parameters<ReadInput>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<ReadOutput>, String> {
        let id: DocumentId = input.document.parse().map_err(said)?;
        let path = format!("/v1/collections/{}/documents/{id}", collection(&input.collection)?);
        let credentials = credentials(&context);
        let known = self.api.get(&credentials, path.clone()).await.map_err(said)?;
        let whole = self.api.get(&credentials, format!("{path}/text")).await.map_err(said)?;
        let whole = whole.as_str().unwrap_or_default();
        let (start, end) = part(whole, input.start, input.end)?;
        Ok(Json(ReadOutput {
            document: id.to_string(),
            uri: text(&known, "/uri"),
            title: text(&known, "/title"),
            text: whole.get(start..end).unwrap_or_default().to_owned(),
            start,
            end,
            total: whole.len(),
            next_start: (end < whole.len()).then_some(end),
        }))
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for McpServer {
    fn get_info(&self) -> ServerConfig {
        let about = Implementation::new("edgewise", env!("CARGO_PKG_VERSION")).with_title("Edgewise");
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build()).with_server_info(about).with_instructions(
            "Collections of documents. `list` names them; `search` finds passages; `ask` answers from the documents with \
             quotes; `read` gives a document's text.",
        )
    }
}

fn next(found: &Value) -> Option<String> {
    found.get("next").and_then(Value::as_str).map(str::to_owned)
}

/// The part of a text to give: what was asked for, no longer than [`MAX_READ`], between characters.
fn part(whole: &str, start: Option<usize>, end: Option<usize>) -> Result<(usize, usize), String> {
    let (start, wanted) = (start.unwrap_or(0), end.unwrap_or(whole.len()));
    if start > wanted || wanted > whole.len() {
        let length = whole.len();
        return Err(format!("start {start} and end {wanted} must be in order and within the text's {length} bytes"));
    }
    let before = |at: usize| (0..=at).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
    let start = before(start);
    Ok((start, before(wanted.min(start + MAX_READ))))
}

fn answer(done: &Value) -> AskOutput {
    let quote = |citation: &Value| Quote {
        n: number(citation, "/n"),
        document: text(citation, "/document"),
        uri: text(citation, "/uri"),
        title: text(citation, "/title"),
        quote: text(citation, "/quote"),
        start: size(citation, "/span/start"),
        end: size(citation, "/span/end"),
    };
    let usage = |name: &str| number(done, &format!("/usage/{name}"));
    let cost = done.get("cost").map(|cost| cost.as_str().map_or_else(|| cost.to_string(), str::to_owned));
    AskOutput {
        answer: text(done, "/text"),
        unanswerable: done.get("unanswerable").and_then(Value::as_bool).unwrap_or(false),
        citations: list(done, "/citations").iter().map(quote).collect(),
        route: text(done, "/turn/route"),
        cost: cost.unwrap_or_default(),
        input_tokens: ["input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"]
            .map(usage)
            .iter()
            .sum(),
        cached_tokens: usage("cache_read_tokens"),
        output_tokens: usage("output_tokens"),
        notes: texts(done, "/explanation/notes"),
    }
}

/// Tells a client that asked for it how an answer comes along.
struct Progress {
    token: Option<ProgressToken>,
    peer: Peer<RoleServer>,
    tokens: u32,
    told: Option<Instant>,
}

impl Progress {
    fn new(token: Option<ProgressToken>, peer: Peer<RoleServer>) -> Self {
        Self { token, peer, tokens: 0, told: None }
    }

    async fn saw(&mut self, event: &str, data: &Value) {
        let message = match event {
            "plan" => format!("reading by route {}", text(data, "/chosen")),
            "escalated" => "the first sources did not hold the answer: reading more".to_owned(),
            "token" => {
                self.tokens += 1;
                // The first is always told: it says that the waiting is over.
                if self.tokens > 1 && self.told.is_some_and(|told| told.elapsed() < EVERY) {
                    return;
                }
                format!("{} tokens of the answer", self.tokens)
            }
            _ => return,
        };
        let Some(token) = self.token.clone() else { return };
        self.told = Some(Instant::now());
        // One more than the tokens, since it must grow with the first of them too.
        let progress = f64::from(self.tokens) + 1.0;
        let told = ProgressNotificationParam::new(token, progress).with_message(message);
        // A client that does not listen still gets its answer.
        let _ = self.peer.notify_progress(told).await;
    }
}

impl From<ApiFailure> for String {
    fn from(failure: ApiFailure) -> Self {
        failure.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_part_stands_between_characters_and_is_bounded() {
        let whole = "aé".repeat(MAX_READ);
        assert_eq!(part(&whole, None, None).unwrap(), (0, MAX_READ - 1), "the last character would be cut");
        assert_eq!(part("aéb", Some(2), Some(4)).unwrap(), (1, 4));
        assert_eq!(part("", None, None).unwrap(), (0, 0));
        assert!(part("abc", Some(3), Some(2)).is_err());
        assert!(part("abc", None, Some(4)).is_err());
    }

    #[test]
    fn values_of_a_query_string_are_encoded() {
        assert_eq!(encoded("year >= 2020 & x"), "year%20%3E%3D%202020%20%26%20x");
    }
}
