//! The pages for the owner: the desk, the status page, and the echo for `check --url`.

use super::{Role, Server, echo_page, status_page};
use crate::owner::{Reply, SiteView};
use crate::request::Request;
use std::time::SystemTime;

/// Whether the request may be for one of these pages.
pub(super) fn is_for(server: &Server, request: &Request) -> bool {
    server.desk.is_for(request)
        || echo_page::requested(request, server.workers.dir()).is_some()
        || status_page::requested(&request.environ, &server.config.status).is_some()
}

/// Answers a request for one of these pages. None: the request is for the app.
pub(super) fn reply(server: &Server, request: &Request) -> Option<Reply> {
    let site = site_view(server);
    if let Some(asked) = echo_page::requested(request, site.dir) {
        return Some(echo_page::reply(request, &site, server.front.role, &asked));
    }
    match status_page::requested(&request.environ, &server.config.status) {
        Some((format, redacted)) => Some(status_page::reply(format, redacted, &site)),
        None => server.desk.reply(request, &site, SystemTime::now()),
    }
}

/// The state of the site, as this front sees it now.
pub(super) fn site_view(server: &Server) -> SiteView<'_> {
    SiteView {
        dir: server.workers.dir(),
        origin: &server.origin,
        cgi: server.front.role == Role::Cgi,
        name: server.report.site_name(),
        refused_settings: server.reload.refused_settings(),
        refused_code: server.reload.refused_code(),
        reloading: !server.reload.is_steady(),
        unavailable: server.workers.unavailable_reason(),
    }
}
