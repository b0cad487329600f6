//! An operator at the console's page in a real Chromium. Everything is done with mouse and keyboard;
//! scripts only look.

use crate::browser::{Browser, Key, Look};
use crate::passage::BOUND;
use crate::{place, wait};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// The page has some dozens of places that Tab stops at.
const TABS_MAX: usize = 200;

/// Where on the page a button is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Within {
    Top,
    /// By its slot.
    Worker(String),
    /// By its name.
    Stream(String),
    Dialog,
}

impl Within {
    fn selector(&self) -> String {
        match self {
            Self::Top => "header.top".to_owned(),
            Self::Worker(slot) => format!("article[aria-label='worker {slot}']"),
            Self::Stream(name) => format!("article[aria-label='Stream {name}']"),
            Self::Dialog => "dialog[open]".to_owned(),
        }
    }
}

/// A button that is in the same place so often, a hundredth of a second apart, stands still.
const LOOKS_STANDING: u32 = 40;

#[derive(Debug)]
pub struct Operator {
    browser: Browser,
}

impl Operator {
    /// Opens the page; it shows a first status.
    pub fn open(run: &Path, console: &str) -> Result<Self> {
        let mut browser = Browser::start(run, "chromium")?;
        browser.show_as(Look::DESKTOP)?;
        browser.navigate(&format!("http://{console}/"))?;
        let mut operator = Self { browser };
        operator.until("a status on the page", "!!document.querySelector('dl.node')")?;
        Ok(operator)
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, what: &str, expression: &str) -> Result<()> {
        let seen = wait::until(what, BOUND, || {
            Ok((self.browser.evaluate(expression)? == true).then_some(()))
        });
        seen.with_context(|| format!("the page says\n{}", self.text("body")))
    }

    /// Waits until what the first of these selects says so.
    pub fn reads(&mut self, selector: &str, text: &str) -> Result<()> {
        let has = format!(
            "[...document.querySelectorAll({})].some((it) => it.innerText.includes({}))",
            json!(selector),
            json!(text)
        );
        self.until(&format!("{text:?} in {selector}"), &has)
    }

    /// What stands there.
    pub fn text(&mut self, selector: &str) -> String {
        let inner = format!("document.querySelector({})?.innerText ?? ''", json!(selector));
        let text = self.browser.evaluate(&inner).unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks a button in its middle, once it is there, nothing lies above it, and it stands still: a
    /// page that fills moves what is below.
    pub fn click(&mut self, within: &Within, text: &str) -> Result<()> {
        let middle = format!(
            "(() => {{
               const button = {};
               if (!button) return null;
               button.scrollIntoView({{ block: 'center' }});
               const box = button.getBoundingClientRect();
               const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
               return button.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
             }})()",
            button(within, text)
        );
        let what = format!("a button {text:?} of {within:?}");
        let (mut before, mut looks) = (None, 0);
        let at = wait::until(&what, BOUND, || {
            let at = self.browser.evaluate(&middle)?;
            let at = at[0].as_f64().zip(at[1].as_f64());
            looks = if at == before { looks + 1 } else { 0 };
            before = at;
            Ok(at.filter(|_| looks >= LOOKS_STANDING))
        });
        let (x, y) = at.with_context(|| format!("the page says\n{}", self.text("body")))?;
        self.browser.click(x, y)
    }

    /// Goes there by Tab alone, and presses Enter.
    pub fn enter(&mut self, within: &Within, text: &str) -> Result<()> {
        let is_there = format!("{} === document.activeElement", button(within, text));
        self.until(
            &format!("a button {text:?} of {within:?}"),
            &format!("!!{}", button(within, text)),
        )?;
        for _ in 0..TABS_MAX {
            self.browser.press(Key::Tab)?;
            if self.browser.evaluate(&is_there)? == true {
                return self.browser.press(Key::Enter);
            }
        }
        bail!("Tab does not lead to {text:?} of {within:?}")
    }

    pub fn press(&mut self, key: Key) -> Result<()> {
        self.browser.press(key)
    }

    /// Waits until the dialog has this title.
    pub fn is_asked(&mut self, title: &str) -> Result<()> {
        self.reads("dialog[open] h2", title)
    }

    pub fn is_asked_nothing(&mut self) -> Result<()> {
        self.until("the dialog to be closed", "!document.querySelector('dialog')")
    }

    /// Waits until what was confirmed is over and all of it was good; closes the dialog.
    pub fn outcome(&mut self) -> Result<Vec<String>> {
        let is_over = "document.querySelector('dialog[open] .results li') !== null \
                       && document.querySelector('dialog[open] .results .faint') === null";
        self.until("what was confirmed to be over", is_over)?;
        let looked = self.browser.evaluate(
            "[...document.querySelectorAll('dialog[open] .results li')]
               .map((it) => [it.className, it.innerText])",
        )?;
        let mut told = Vec::new();
        for result in looked.as_array().context("results")? {
            ensure!(result[0] == "good", "{looked}");
            told.push(result[1].as_str().unwrap_or_default().to_owned());
        }
        ensure!(!told.is_empty(), "nothing came of it");
        self.click(&Within::Dialog, "Close")?;
        self.is_asked_nothing()?;
        Ok(told)
    }

    /// The page as a desktop shows it, light and dark, and as a phone does.
    pub fn screenshots(&mut self, directory: &Path) -> Result<()> {
        let kept = place::target_directory()?.join("screenshots");
        std::fs::create_dir_all(&kept)?;
        for (name, look) in
            [("desktop", Look::DESKTOP), ("dark", Look::DARK), ("phone", Look::PHONE)]
        {
            self.browser.show_as(look)?;
            self.browser.evaluate("window.scrollTo(0, 0)")?;
            // They follow the plots, which are drawn anew in the window's new size.
            self.until("arrows between the workers", "!!document.querySelector('.arrows .arrow')")?;
            self.must_fit(name)?;
            for place in [directory, kept.as_path()] {
                self.browser.screenshot_of_all(&place.join(format!("console-{name}.png")))?;
            }
        }
        self.browser.show_as(Look::DESKTOP)
    }

    /// Nothing is wider than the window.
    fn must_fit(&mut self, name: &str) -> Result<()> {
        let root = "document.documentElement";
        let widths = self.browser.evaluate(&format!("[{root}.scrollWidth, {root}.clientWidth]"))?;
        ensure!(widths[0] == widths[1] && widths[0] != Value::Null, "{name}: widths {widths}");
        Ok(())
    }
}

/// An expression for a button that can be pressed, by what stands on it.
fn button(within: &Within, text: &str) -> String {
    format!(
        "([...document.querySelectorAll({})].find((it) => it.innerText.trim() === {} && !it.disabled) ?? null)",
        json!(format!("{} button", within.selector())),
        json!(text)
    )
}
