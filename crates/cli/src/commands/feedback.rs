//! `edgewise feedback`.

use serde_json::json;

use edgewise_gateway::{FeedbackForgotten, FeedbackStored, check_rating, learned};
use edgewise_ledger::{Ledger, Rating};
use edgewise_types::TenantId;

use crate::{app::App, args::Feedback, client::Client, commands::query::server, error::CliError, output};

pub(crate) fn run(args: &Feedback, app: &App) -> Result<(), CliError> {
    let client = server(&args.place, app);
    if args.reset {
        return reset(args, client, app);
    }
    let good = if args.good || args.bad { Some(args.good) } else { None };
    let rating = check_rating(args.rating, good, args.comment.as_deref()).map_err(CliError::Usage)?;
    let stored: FeedbackStored = match client {
        Some(client) => {
            let body = json!({ "request_id": args.request, "rating": rating, "comment": args.comment });
            client.post("/v1/feedback", &body)?
        }
        None => {
            let ledger = Ledger::open(&app.settings().paths.ledger)?;
            let rated = ledger.rate(&Rating {
                tenant: &TenantId::local(),
                request: &args.request,
                rating,
                comment: args.comment.as_deref(),
                at: jiff::Timestamp::now(),
            })?;
            let ratings = learned(&ledger)?.count();
            FeedbackStored { request_id: rated.id, rating, replaced: rated.replaced, ratings }
        }
    };
    if args.json {
        return output::json(&stored);
    }
    let replaced = if stored.replaced { ", in place of its earlier rating" } else { "" };
    Ok(output::line(&format!(
        "rated {} {:+}{replaced}; routes are corrected by {}",
        stored.request_id,
        stored.rating,
        output::plural(stored.ratings, "rating")
    ))?)
}

fn reset(args: &Feedback, client: Option<Client>, app: &App) -> Result<(), CliError> {
    let forgotten = match client {
        Some(client) => client.remove::<FeedbackForgotten>("/v1/feedback")?,
        None => FeedbackForgotten { forgotten: Ledger::open(&app.settings().paths.ledger)?.forget_ratings()? },
    };
    if args.json {
        return output::json(&forgotten);
    }
    Ok(output::line(&format!("{} deleted", output::plural(forgotten.forgotten, "rating")))?)
}
