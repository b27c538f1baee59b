//! `edgewise tree show`.

use edgewise_retrieval::{TreeItem, TreeLeaf, TreeNode, TreeScopeView, TreeView};
use edgewise_types::SummaryMethod;

use crate::{
    app::App,
    args::{TreeShow, document_of},
    client::Client,
    error::CliError,
    output::{self, count, plural},
};

/// Characters shown of a text.
const SHOWN: usize = 88;

/// Characters of an id shown; `--node` takes any beginning that only one node has.
const ID: usize = 12;

/// Levels asked for at most.
const MOST: usize = 32;

pub(super) fn run(args: &TreeShow, app: &App) -> Result<(), CliError> {
    let name = args.tree.get()?;
    // All levels, but passages only where they are asked for by a depth.
    let depth = args.depth.unwrap_or(if args.node.is_some() { 1 } else { MOST }).min(MOST);
    let text_chars = if args.node.is_some() || args.json { None } else { Some(SHOWN * 2) };
    let document = args.document.as_deref().map(document_of);
    let view: TreeView = match Client::discover(app.data_root()) {
        Some(client) => {
            let mut path = format!("/v1/collections/{name}/tree?depth={depth}");
            if let Some(chars) = text_chars {
                path.push_str(&format!("&text_chars={chars}"));
            }
            if let Some(document) = &document {
                path.push_str(&format!("&document={document}"));
            }
            if let Some(node) = &args.node {
                path.push_str(&format!("&node={node}"));
            }
            client.get(&path)?
        }
        None => {
            let collection = app.collections()?.get(name)?;
            let scope = match (document, &args.node) {
                (Some(document), _) => TreeScopeView::Document(document),
                (None, Some(node)) => TreeScopeView::Node(collection.tree_node_id(node)?),
                (None, None) => TreeScopeView::All,
            };
            collection.tree(&scope, depth, text_chars)?
        }
    };
    if args.json {
        return output::json(&view);
    }
    match (&args.node, view.roots.as_slice()) {
        (Some(_), [TreeItem::Node(node)]) => one(node),
        (_, []) => Ok(output::line(&super::status_text(&view.status))?),
        (_, roots) => {
            let leaves = args.depth.is_some();
            for root in roots {
                print(root, 0, leaves)?;
            }
            if view.more_documents > 0 {
                output::line(&output::dim(&format!("… and {}", plural(view.more_documents, "more document"))))?;
            }
            if !view.status.current {
                output::line(&output::dim(&super::status_text(&view.status)))?;
            }
            Ok(())
        }
    }
}

/// A node in full.
fn one(node: &TreeNode) -> Result<(), CliError> {
    output::line(&format!("{} {}", output::bold(&node.id.to_string()), described(node)))?;
    output::line(&format!("\n{}\n", node.text))?;
    if !node.unsupported.is_empty() {
        let names = node.unsupported.join(", ");
        output::line(&output::dim(&format!("not in its members, and therefore written again: {names}\n")))?;
    }
    for member in node.members.iter().flatten() {
        print(member, 1, true)?;
    }
    Ok(())
}

fn described(node: &TreeNode) -> String {
    let what = match (&node.uri, node.root) {
        (Some(uri), true) => format!("all of {uri}"),
        (Some(uri), false) => uri.clone(),
        (None, true) => format!("all {}", plural(node.documents, "document")),
        (None, false) => plural(node.documents, "document"),
    };
    let method = match node.method {
        SummaryMethod::Extractive => "sentences",
        SummaryMethod::Abstractive => "generated",
        SummaryMethod::ExtractiveFallback => "sentences, as what was generated did not hold",
    };
    format!(
        "{what}: level {}, {}, {}, {} tokens, {method}",
        node.level,
        plural(node.member_count, "member"),
        plural(node.leaves, "passage"),
        count(node.tokens)
    )
}

fn print(item: &TreeItem, depth: usize, leaves: bool) -> Result<(), CliError> {
    let indent = "  ".repeat(depth);
    match item {
        TreeItem::Leaf(leaf) if leaves || depth == 0 => leaf_line(leaf, &indent),
        TreeItem::Leaf(_) => Ok(()),
        TreeItem::Node(node) => {
            let id: String = node.id.to_string().chars().take(ID).collect();
            output::line(&format!("{indent}{} {}", output::bold(&id), output::dim(&described(node))))?;
            output::line(&format!("{indent}  {}", first_words(&node.text)))?;
            node.members.iter().flatten().try_for_each(|member| print(member, depth + 1, leaves))
        }
    }
}

fn leaf_line(leaf: &TreeLeaf, indent: &str) -> Result<(), CliError> {
    let place = output::place(&leaf.uri, &leaf.heading_path, None);
    let line = format!("{place}: passage {}, {} tokens", leaf.chunk, count(leaf.tokens));
    output::line(&format!("{indent}{}", output::dim(&line)))?;
    Ok(output::line(&format!("{indent}  {}", first_words(&leaf.text)))?)
}

/// The beginning of a text in one line.
fn first_words(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text[..end].trim_end_matches(['…', ' '])),
        None => text,
    }
}
