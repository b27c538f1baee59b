//! Which nodes together cover a scope within a budget.
//!
//! A question about the whole is answered by no passage, and often shares no word with any ("What is the plot?"). What is
//! wanted is every part of the scope, as detailed as the budget allows. So the cover begins with the highest nodes, which
//! leave nothing out, and replaces a node by its members while that fits: first where most is summarised in one text, and
//! sooner where the question points. When no whole node can be replaced any more, those of one's members that fit may still
//! take its place, if what they say more of a part outweighs what is no longer said of the rest: a budget that is not used
//! answers nothing.
//!
//! What matches the question may have been taken before. It counts against the budget; nodes above it make way for their
//! members, and nodes in it are replaced like any other: a summary that was taken for its match keeps its texts from being
//! taken, and gives way to them where there is room.
//!
//! The result never has an item together with what is above or below it.
//!
//! Deliberately not here: what points where; see `search`.

use std::collections::{BTreeSet, HashMap, HashSet};

use edgewise_catalog::{Below, NodeRow};

use super::shape::{Shape, Taken};

/// What the question gives a node that it does not point to at all, against one it points to most: 1 to 3.
const UNPOINTED: f32 = 0.5;

/// What a part of a node's members is worth: its tokens times the root of the share of chunks that it covers. A prior: what
/// a text holds of an answer grows with its length; what is left out is partly told by its neighbours.
fn worth(tokens: usize, share: f64) -> f64 {
    tokens as f64 * share.sqrt()
}

/// How much it matters that an item is in the cover: the chunks it stands for, more where the question points.
fn weight<T: Terrain>(shape: &Shape, item: Below, terrain: &T) -> f32 {
    shape.chunks(item) as f32 * (UNPOINTED + terrain.relevance(item))
}

/// What the cover asks about items.
pub(crate) trait Terrain {
    type Error;
    /// Tokens of the texts, one for each item; `None` for what must not be shown.
    fn tokens(&mut self, items: &[Below]) -> Result<Vec<Option<usize>>, Self::Error>;
    /// How much the question points to an item, 0 to 1.
    fn relevance(&self, item: Below) -> f32;
}

/// What was `taken`, which fits and of which nothing is above or below another, and items that cover what else is below
/// `tops`, in at most `budget` tokens in all and in no particular order. Where not even the highest of them fit, those that
/// stand for most, and to which the question points most.
pub(crate) fn cover<T: Terrain>(
    shape: &Shape,
    served: &HashSet<NodeRow>,
    tops: &[NodeRow],
    taken: &[Below],
    budget: usize,
    terrain: &mut T,
) -> Result<Vec<Below>, T::Error> {
    let mut cost: HashMap<Below, usize> = HashMap::new();
    let mut weights: HashMap<Below, f32> = HashMap::new();
    learn(taken, terrain, &mut cost)?;
    let mut front: BTreeSet<Below> = taken.iter().copied().filter(|item| cost.contains_key(item)).collect();
    let mut used: usize = front.iter().filter_map(|item| cost.get(item)).sum();
    let tops = beside(shape, served, tops, taken);
    learn(&tops, terrain, &mut cost)?;
    // Where they do not all fit, what stands for most comes first: the few chunks that are left of a document of which
    // others were taken must not keep out a document of which nothing is said.
    let mut tops: Vec<(f32, Below)> = tops.into_iter().map(|item| (weight(shape, item, terrain), item)).collect();
    tops.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, item) in tops {
        if let Some(tokens) = cost.get(&item).filter(|tokens| used + **tokens <= budget) {
            used += tokens;
            front.insert(item);
        }
    }
    // Those whose members do not all fit.
    let mut stuck: BTreeSet<Below> = BTreeSet::new();
    loop {
        let mut best: Option<(f32, Below)> = None;
        for item in front.iter().filter(|item| matches!(item, Below::Node(_)) && !stuck.contains(item)) {
            let weight = *weights.entry(*item).or_insert_with(|| weight(shape, *item, terrain));
            if best.is_none_or(|(most, _)| weight > most) {
                best = Some((weight, *item));
            }
        }
        let Some((_, item)) = best else { break };
        let room = budget.saturating_sub(used) + cost.get(&item).copied().unwrap_or(0);
        let members = free_members(shape, served, item, &front);
        // Looking up what can't fit is a waste: no text is shorter than a token.
        let fits = members.len() <= room && {
            learn(&members, terrain, &mut cost)?;
            members.iter().all(|member| cost.contains_key(member))
                && members.iter().map(|member| cost[member]).sum::<usize>() <= room
        };
        if fits {
            replace(&mut front, &mut used, item, &members, &cost);
        } else {
            stuck.insert(item);
        }
    }
    let mut rest: Vec<Below> = stuck.into_iter().filter(|item| front.contains(item)).collect();
    rest.sort_by(|a, b| terrain.relevance(*b).total_cmp(&terrain.relevance(*a)).then(a.cmp(b)));
    for item in rest {
        let own = cost.get(&item).copied().unwrap_or(0);
        let room = budget.saturating_sub(used) + own;
        let members = free_members(shape, served, item, &front);
        if members.len() > MANY_MEMBERS {
            continue;
        }
        learn(&members, terrain, &mut cost)?;
        let (mut chosen, mut spent, mut kept) = (Vec::new(), 0, HashSet::new());
        for member in by_relevance(members, terrain) {
            if let Some(tokens) = cost.get(&member).filter(|tokens| spent + **tokens <= room) {
                spent += tokens;
                kept.extend(match member {
                    Below::Chunk(_) => HashSet::from([member]),
                    Below::Node(node) => shape.below(node),
                });
                chosen.push(member);
            }
        }
        let kept = kept.iter().filter(|item| matches!(item, Below::Chunk(_))).count();
        if worth(spent, kept as f64 / shape.chunks(item).max(1) as f64) > worth(own, 1.0) {
            replace(&mut front, &mut used, item, &chosen, &cost);
        }
    }
    Ok(front.into_iter().collect())
}

/// The highest items below `tops` that are neither above nor below anything taken.
fn beside(shape: &Shape, served: &HashSet<NodeRow>, tops: &[NodeRow], items: &[Below]) -> Vec<Below> {
    let mut taken = Taken::default();
    items.iter().for_each(|item| taken.take(shape, *item));
    let mut open: Vec<Below> = tops.iter().map(|node| Below::Node(*node)).collect();
    let mut found: BTreeSet<Below> = BTreeSet::new();
    let mut seen: HashSet<Below> = open.iter().copied().collect();
    while let Some(item) = open.pop() {
        if taken.has(item) {
            continue;
        }
        if !taken.related(item) {
            found.insert(item);
            continue;
        }
        // Above something taken, or below it; then its members are too.
        let Below::Node(node) = item else { continue };
        for member in shape.place(node).map(|place| place.members.as_slice()).unwrap_or_default() {
            let shown = !matches!(member, Below::Node(node) if !served.contains(node));
            if shown && seen.insert(*member) {
                open.push(*member);
            }
        }
    }
    // Members of several nodes: one may be below another that was kept whole.
    let covered = |item: &Below| shape.above(*item).iter().any(|node| found.contains(&Below::Node(*node)));
    found.iter().filter(|item| !covered(item)).copied().collect()
}

/// A node of more members than this is not taken apart in part.
const MANY_MEMBERS: usize = 256;

fn learn<T: Terrain>(items: &[Below], terrain: &mut T, cost: &mut HashMap<Below, usize>) -> Result<(), T::Error> {
    let unknown: Vec<Below> = items.iter().filter(|item| !cost.contains_key(item)).copied().collect();
    let tokens = terrain.tokens(&unknown)?;
    cost.extend(unknown.into_iter().zip(tokens).filter_map(|(item, tokens)| Some((item, tokens?))));
    Ok(())
}

fn by_relevance<T: Terrain>(mut items: Vec<Below>, terrain: &T) -> Vec<Below> {
    items.sort_by(|a, b| terrain.relevance(*b).total_cmp(&terrain.relevance(*a)).then(a.cmp(b)));
    items
}

/// Members of `item` that nothing else in the front is above.
fn free_members(shape: &Shape, served: &HashSet<NodeRow>, item: Below, front: &BTreeSet<Below>) -> Vec<Below> {
    let Below::Node(node) = item else { return Vec::new() };
    let members = shape.place(node).map(|place| place.members.as_slice()).unwrap_or_default();
    let mut free: Vec<Below> = Vec::with_capacity(members.len());
    for member in members {
        let shown = !matches!(member, Below::Node(node) if !served.contains(node));
        let covered = shape.above(*member).iter().any(|above| *above != node && front.contains(&Below::Node(*above)));
        if shown && !covered && !free.contains(member) {
            free.push(*member);
        }
    }
    // One that is below another, in a tree that skips levels, is covered by it.
    let all = free.clone();
    free.retain(|member| {
        let above = shape.above(*member);
        !all.iter().any(|other| matches!(other, Below::Node(node) if above.contains(node)))
    });
    free
}

fn replace(
    front: &mut BTreeSet<Below>,
    used: &mut usize,
    item: Below,
    members: &[Below],
    cost: &HashMap<Below, usize>,
) {
    front.remove(&item);
    *used -= cost.get(&item).copied().unwrap_or(0);
    for member in members {
        if front.insert(*member) {
            *used += cost.get(member).copied().unwrap_or(0);
        }
    }
}
