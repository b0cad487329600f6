//! The page: built by npm in `worker/console`, committed there, and embedded here.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, Response, StatusCode};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "console/dist"]
struct Dist;

const INDEX: &str = "index.html";

/// A file of the page by its path; `/` is the page itself.
#[must_use]
pub fn answer(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let name = path.trim_start_matches('/');
    let name = if name.is_empty() { INDEX } else { name };
    let EmbeddedFile { data, metadata } = Dist::get(name)?;
    let hash: String =
        metadata.sha256_hash()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    // A new server brings a new page: browsers ask each time, and are told that nothing changed.
    let answer = Response::builder().header(ETAG, &etag).header(CACHE_CONTROL, "no-cache");
    let answer = if known == Some(etag.as_str()) {
        answer.status(StatusCode::NOT_MODIFIED).body(Body::empty())
    } else {
        answer.header(CONTENT_TYPE, kind(name)).body(Body::from(data.into_owned()))
    };
    answer.ok()
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "woff2" => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is there, is not sent twice, and nothing but it is.
    #[test]
    fn the_page_is_embedded() {
        let page = answer("/", &HeaderMap::new()).unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
        let mut again = HeaderMap::new();
        again.insert(IF_NONE_MATCH, page.headers()[ETAG].clone());
        assert_eq!(answer("/index.html", &again).unwrap().status(), StatusCode::NOT_MODIFIED);
        for path in ["/../Cargo.toml", "/nothing", "//etc/passwd"] {
            assert!(answer(path, &HeaderMap::new()).is_none(), "{path}");
        }
    }
}
