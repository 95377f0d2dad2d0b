//! A browser without a screen: cookies per host, one page at a time, every hop visible.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, header};

use super::http::{self as plain, Answer, form};
use super::proxy::PUBLIC;

/// A cookie jar and where `https://p.test` really is.
#[derive(Clone)]
pub struct Browser {
    proxy: SocketAddr,
    /// By origin, then name.
    pub cookies: BTreeMap<String, BTreeMap<String, String>>,
    /// Where a trusted proxy in front says it is.
    pub address: Option<String>,
}

impl Browser {
    pub fn new(proxy: SocketAddr) -> Self {
        Browser { proxy, cookies: BTreeMap::new(), address: None }
    }

    /// Opens a URL, as typed or clicked.
    pub async fn get(&mut self, url: &str) -> Answer {
        self.try_get(url).await.expect("an answer")
    }

    async fn try_get(&mut self, url: &str) -> Option<Answer> {
        let request = plain::request(Method::GET, url).header(header::ACCEPT, "text/html");
        self.go(url, request, Bytes::new()).await
    }

    /// Submits the consent form as a browser does.
    pub async fn decide(&mut self, flow: &str, decision: &str) -> Answer {
        self.try_decide(flow, decision).await.expect("an answer")
    }

    async fn try_decide(&mut self, flow: &str, decision: &str) -> Option<Answer> {
        let url = format!("{PUBLIC}/consent");
        let request = plain::request(Method::POST, &url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ORIGIN, "null")
            .header("sec-fetch-site", "same-origin");
        self.go(&url, request, form(&[("flow", flow), ("decision", decision)])).await
    }

    /// The consent page's flow.
    pub async fn consent(&mut self, authorize_url: &str) -> String {
        let page = self.get(authorize_url).await.expect(200);
        flow(&page)
    }

    /// Approves and returns GitHub's URL, not yet opened.
    pub async fn reach_github(&mut self, authorize_url: &str) -> String {
        let flow = self.consent(authorize_url).await;
        let page = self.decide(&flow, "approve").await.expect(200);
        onward(&page)
    }

    /// Approves, logs in at GitHub and returns our callback's URL, not yet opened.
    pub async fn reach_callback(&mut self, authorize_url: &str) -> String {
        let github = self.reach_github(authorize_url).await;
        let redirect = self.get(&github).await;
        redirect.header("location").to_owned()
    }

    /// The whole way while the proxy may be killed: `None` when it did not come to its end.
    pub async fn try_approve(&mut self, authorize_url: &str) -> Option<String> {
        let page = self.try_get(authorize_url).await?;
        let page = self.try_decide(&flow(&page), "approve").await?;
        let github = self.try_get(&onward(&page)).await?;
        let answer = self.try_get(github.header("location")).await?;
        (answer.status == 303).then(|| answer.header("location").to_owned())
    }

    /// The whole way; returns the URL that leads back to the client.
    pub async fn approve(&mut self, authorize_url: &str) -> String {
        let callback = self.reach_callback(authorize_url).await;
        let answer = self.get(&callback).await;
        match answer.status {
            303 => answer.header("location").to_owned(),
            _ => onward(&answer),
        }
    }

    async fn go(&mut self, url: &str, mut request: http::request::Builder, body: Bytes) -> Option<Answer> {
        let parsed = url::Url::parse(url).unwrap_or_else(|_| panic!("not a URL: {url:?}"));
        let origin = parsed.origin().ascii_serialization();
        let jar = self.cookies.entry(origin.clone()).or_default();
        if !jar.is_empty() {
            let cookies: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        if let Some(address) = self.address.as_ref().filter(|_| origin == PUBLIC) {
            request = request.header("x-forwarded-for", address);
        }
        let address = match origin == PUBLIC {
            true => self.proxy,
            false => parsed.socket_addrs(|| None).expect("resolves")[0],
        };
        let answer = plain::try_send(address, request.body(body).expect("a request")).await?;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().expect("text");
            let (name, value) =
                cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            jar.insert(name.to_owned(), value.to_owned());
        }
        Some(answer)
    }
}

/// The hidden field of a consent page.
#[track_caller]
pub fn flow(page: &Answer) -> String {
    between(&page.text(), "name=\"flow\" value=\"", "\"")
        .unwrap_or_else(|| panic!("no form: {}", page.text()))
}

/// Where a page leads on to: by itself, or by its button.
#[track_caller]
pub fn onward(page: &Answer) -> String {
    let text = page.text();
    let url = between(&text, "content=\"0;url=", "\"")
        .or_else(|| between(&text, "rel=\"noreferrer\" href=\"", "\""));
    let url = url.unwrap_or_else(|| panic!("leads nowhere: {} {text}", page.status));
    url.replace("&#38;", "&").replace("&amp;", "&").replace("&#39;", "'").replace("&#34;", "\"")
}

/// The text between two others.
pub fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)? + start;
    Some(text[start..end].to_owned())
}
