//! The tools of the Model Context Protocol over HTTP, with the messages that its clients send.

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use edgewise_ledger::Work;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{Gateway, Reply, request};

const ANSWER: &str = "The harbour was founded in 1742 by Elsa Brandt [1].";
const QUESTION: &str = "Who founded the harbour of Westmar?";

fn message(session: Option<&str>, key: Option<&str>, body: &Value) -> Request<Body> {
    let mut request = request(Method::POST, "/mcp", Body::from(body.to_string()));
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    headers.insert(header::ACCEPT, "application/json, text/event-stream".parse().unwrap());
    if let Some(session) = session {
        headers.insert("mcp-session-id", session.parse().unwrap());
        headers.insert("mcp-protocol-version", "2025-06-18".parse().unwrap());
    }
    if let Some(key) = key {
        headers.insert(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
    }
    request
}

/// Sessions live in the router: the same one serves all requests of a client.
async fn send(router: &Router, request: Request<Body>) -> Reply {
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = tokio::time::timeout(std::time::Duration::from_secs(20), axum::body::to_bytes(body, usize::MAX)).await;
    Reply { status: parts.status, headers: parts.headers, body: body.unwrap().unwrap().to_vec() }
}

/// The messages of a response.
fn messages(reply: &Reply) -> Vec<Value> {
    let text = reply.text();
    let data =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).filter(|data| !data.is_empty());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// A client that has said hello.
struct Client {
    router: Router,
    session: String,
    key: Option<String>,
}

impl Client {
    async fn hello(gateway: &Gateway, key: Option<&str>) -> Self {
        let router = gateway.router();
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
        let reply = send(&router, message(None, key, &hello)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let session = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let result = messages(&reply).pop().unwrap();
        assert_eq!(result["result"]["serverInfo"]["name"], "edgewise", "{result}");
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(send(&router, message(Some(&session), key, &ready)).await.status, StatusCode::ACCEPTED);
        Self { router, session, key: key.map(str::to_owned) }
    }

    /// All messages that come of a call, its result last.
    async fn ask(&self, method: &str, params: Value) -> Vec<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        messages(&send(&self.router, message(Some(&self.session), self.key.as_deref(), &body)).await)
    }

    async fn call(&self, tool: &str, arguments: Value) -> Value {
        let all = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await;
        all.into_iter().find(|message| message["id"] == 7).unwrap()["result"].clone()
    }
}

#[tokio::test]
async fn a_model_searches_asks_lists_and_reads() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let client = Client::hello(&gateway, None).await;
    let tools = client.ask("tools/list", json!({})).await.pop().unwrap()["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    for tool in tools.as_array().unwrap() {
        assert!(tool["inputSchema"]["properties"].is_object() && tool["outputSchema"]["properties"].is_object());
        assert!(tool["description"].as_str().unwrap().len() > 30 && tool["annotations"]["readOnlyHint"] == true);
    }
    let listed = client.call("list", json!({})).await;
    assert_eq!(listed["structuredContent"]["collections"][0]["name"], "guide", "{listed}");
    let listed = client.call("list", json!({"collection": "guide", "limit": 1})).await;
    let next = listed["structuredContent"]["next"].as_str().unwrap();
    let second = client.call("list", json!({"collection": "guide", "limit": 1, "cursor": next})).await;
    assert_ne!(listed["structuredContent"]["documents"], second["structuredContent"]["documents"]);

    let found = client.call("search", json!({"collection": "guide", "query": "harbour founded", "limit": 2})).await;
    let passage = &found["structuredContent"]["passages"][0];
    assert!(passage["text"].as_str().unwrap().contains("1742"), "{passage}");
    let read = client
        .call("read", json!({"collection": "guide", "document": passage["document"], "start": passage["start"], "end": passage["end"]}))
        .await;
    assert_eq!(read["structuredContent"]["text"], passage["text"]);

    let ask = json!({"collection": "guide", "question": QUESTION, "route": "passages"});
    let answer = client.call("ask", ask).await;
    let told = &answer["structuredContent"];
    // Another source says it than the one that the model named: the wrong number is gone.
    assert_eq!(told["answer"], ANSWER.replace(" [1]", ""), "{answer}");
    assert!(!told["citations"][0]["quote"].as_str().unwrap().is_empty());
    assert_eq!(serde_json::from_str::<Value>(answer["content"][0]["text"].as_str().unwrap()).unwrap(), *told);
    let kept = gateway.ledger.recent(9).unwrap();
    let answers: Vec<&str> =
        kept.iter().filter(|record| record.work == Work::Answer).map(|record| record.route.as_str()).collect();
    assert_eq!(answers, ["passages"], "it is in the ledger like any other");
}

#[tokio::test]
async fn a_tool_that_fails_says_what_to_do() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let client = Client::hello(&gateway, None).await;
    for (tool, arguments, part) in [
        ("ask", json!({"collection": "nowhere", "question": "x"}), "existing collections: guide"),
        ("search", json!({"collection": "guide", "query": "x", "limit": 1000}), "between 1 and 100"),
        ("search", json!({"collection": "../x", "query": "x"}), "not a valid collection name"),
        ("read", json!({"collection": "guide", "document": "d_1"}), "not a document id"),
        ("ask", json!({"collection": "guide", "question": "x", "route": "sideways"}), "not what this path takes"),
        ("list", json!({"filter": "x = 1"}), "needs a `collection`"),
    ] {
        let failed = client.call(tool, arguments).await;
        assert_eq!(failed["isError"], true, "{failed}");
        let text = failed["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(part), "{text}");
    }
    let malformed = client.ask("tools/call", json!({"name": "ask", "arguments": {"invented": 1}})).await.pop().unwrap();
    assert!(malformed["error"]["message"].is_string() || malformed["result"]["isError"] == true, "{malformed}");
}

#[tokio::test]
async fn progress_is_told_to_who_asks_for_it() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let client = Client::hello(&gateway, None).await;
    let call = json!({"name": "ask", "arguments": {"collection": "guide", "question": QUESTION, "route": "passages"}, "_meta": {"progressToken": "p"}});
    let all = client.ask("tools/call", call).await;
    let told: Vec<&Value> = all.iter().filter(|message| message["method"] == "notifications/progress").collect();
    assert!(told.len() >= 2, "{all:?}");
    assert!(told[0]["params"]["message"].as_str().unwrap().contains("route"), "{told:?}");
    let steps: Vec<f64> = told.iter().map(|message| message["params"]["progress"].as_f64().unwrap()).collect();
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
}

#[tokio::test]
async fn keys_and_tenants_hold_here_too() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let other = gateway.key("acme", "query").key;
    let operator = gateway.key("local", "query").key;
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}});
    gateway.send(message(None, None, &hello)).await.error(edgewise_gateway::ErrorKind::Unauthorized);
    let client = Client::hello(&gateway, Some(&other)).await;
    assert_eq!(client.call("list", json!({})).await["structuredContent"]["collections"], json!([]));
    let failed = client.call("ask", json!({"collection": "guide", "question": QUESTION})).await;
    assert_eq!(failed["isError"], true, "{failed}");
    let client = Client::hello(&gateway, Some(&operator)).await;
    assert_eq!(client.call("list", json!({})).await["structuredContent"]["collections"][0]["name"], "guide");
}
