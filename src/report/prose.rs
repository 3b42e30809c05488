//! The little Markdown that experiment files use, as HTML: paragraphs, lists, `code`, **bold**,
//! *emphasis* and [links](…). Everything else, HTML included, comes out as plain text.

/// Paragraphs, lists and headings.
pub(crate) fn blocks(text: &str) -> String {
    let mut html = String::new();
    let mut paragraph: Vec<&str> = Vec::new();
    let mut items: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).chain([""]) {
        let item = line.strip_prefix("- ").or_else(|| line.strip_prefix("* "));
        let heading = line.starts_with('#').then(|| line.trim_start_matches('#').trim());
        if item.is_some() || heading.is_some() || line.is_empty() {
            flush_paragraph(&mut html, &mut paragraph);
        }
        if let Some(item) = item {
            items.push(item.to_owned());
        } else if let (false, Some(last)) = (line.is_empty() || heading.is_some(), items.last_mut()) {
            last.push(' ');
            last.push_str(line);
        } else {
            flush_list(&mut html, &mut items);
            match heading {
                Some(heading) => html.push_str(&format!("<h4>{}</h4>\n", inline(heading))),
                None if !line.is_empty() => paragraph.push(line),
                None => {}
            }
        }
    }
    html
}

fn flush_paragraph(html: &mut String, lines: &mut Vec<&str>) {
    if !lines.is_empty() {
        html.push_str(&format!("<p>{}</p>\n", inline(&lines.join(" "))));
        lines.clear();
    }
}

fn flush_list(html: &mut String, items: &mut Vec<String>) {
    if !items.is_empty() {
        let items: String = items.drain(..).map(|item| format!("<li>{}</li>\n", inline(&item))).collect();
        html.push_str(&format!("<ul>\n{items}</ul>\n"));
    }
}

/// Text within a line.
pub(super) fn inline(text: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let span = match c {
            '`' => {
                delimited(rest, "`").map(|(inner, after)| (format!("<code>{}</code>", escape(inner)), after))
            }
            '*' => delimited(rest, "**")
                .map(|(inner, after)| (format!("<strong>{}</strong>", inline(inner)), after))
                .or_else(|| {
                    delimited(rest, "*").map(|(inner, after)| (format!("<em>{}</em>", inline(inner)), after))
                }),
            '[' => link(rest),
            _ => None,
        };
        if let Some((span, after)) = span {
            html.push_str(&span);
            rest = after;
        } else {
            html.push_str(&escape(&rest[..c.len_utf8()]));
            rest = &rest[c.len_utf8()..];
        }
    }
    html
}

/// What stands between two `mark`s at the start of `text`, and what follows. Emphasis hugs its text,
/// so that a lone asterisk stays one.
fn delimited<'t>(text: &'t str, mark: &str) -> Option<(&'t str, &'t str)> {
    let (inner, after) = text.strip_prefix(mark)?.split_once(mark)?;
    (!inner.is_empty() && inner.trim() == inner).then_some((inner, after))
}

/// Bytes of the longest link: whether a bracket begins one is looked for no further.
const MAX_LINK: usize = 2000;

/// `[label](target)` with a web or relative target.
fn link(text: &str) -> Option<(String, &str)> {
    let end = (0..=text.len().min(MAX_LINK)).rev().find(|end| text.is_char_boundary(*end))?;
    let near = &text[..end];
    let (label, rest) = near.strip_prefix('[')?.split_once("](")?;
    let (target, rest) = rest.split_once(')')?;
    let after = &text[near.len() - rest.len()..];
    is_safe(target).then(|| (format!("<a href=\"{}\">{}</a>", escape(target), escape(label)), after))
}

/// Whether a link leads to the web or to a file beside the page, and runs nothing.
fn is_safe(target: &str) -> bool {
    let target = target.trim_start();
    !target.contains([':', '&']) || target.starts_with("https://") || target.starts_with("http://")
}

/// The text as Markdown without HTML and without links that [`is_safe`] refuses, which come out as plain text.
pub(super) fn safe_markdown(text: &str) -> String {
    let mut safe = String::new();
    for (idx, c) in text.char_indices() {
        let after = &text[idx + c.len_utf8()..];
        match c {
            '<' if after.starts_with(|c: char| c.is_alphabetic() || "/!?".contains(c)) => {
                safe.push_str("&lt;")
            }
            // The target of `[label](target)` and of `[label]: target`.
            ']' => {
                let target = after.strip_prefix(['(', ':']).map(|target| {
                    let target = target.trim_start();
                    let end = target.find(|c: char| c.is_whitespace() || c == ')').unwrap_or(target.len());
                    &target[..end]
                });
                safe.push_str(if target.is_none_or(is_safe) { "]" } else { "\\]" });
            }
            c if c.is_control() && c != '\n' => safe.push(' '),
            _ => safe.push(c),
        }
    }
    safe
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_html_and_html_becomes_text() {
        assert_eq!(
            inline("a `x < 1` **b** *c* 2 * 3 [d](https://e.org) <script>"),
            "a <code>x &lt; 1</code> <strong>b</strong> <em>c</em> 2 * 3 \
             <a href=\"https://e.org\">d</a> &lt;script&gt;"
        );
        for target in
            ["javascript:alert", "JavaScript:alert", " data:x", "javascript&#58;alert", "java\tscript:x"]
        {
            assert_eq!(inline(&format!("[x]({target})")), escape(&format!("[x]({target})")));
        }
        assert_eq!(
            blocks("One\ntwo.\n\n- first\n  line\n- second\n\nThree."),
            "<p>One two.</p>\n<ul>\n<li>first line</li>\n<li>second</li>\n</ul>\n<p>Three.</p>\n"
        );
    }

    /// Oracle: CommonMark, by which a backslash before a bracket makes it a plain one.
    #[test]
    fn markdown_loses_html_and_links_that_run() {
        for (text, safe) in [
            ("a `x < 1` **b** [d](https://e.org) 2 < 3", "a `x < 1` **b** [d](https://e.org) 2 < 3"),
            ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
            ("<!-- --> <?x <µ", "&lt;!-- --> &lt;?x &lt;µ"),
            ("[x](javascript:alert(1))", "[x\\](javascript:alert(1))"),
            ("[x](\n javascript:alert(1))", "[x\\](\n javascript:alert(1))"),
            ("[x](javascript&colon;alert(1))", "[x\\](javascript&colon;alert(1))"),
            ("[x]\n\n[x]: javascript:alert(1)", "[x]\n\n[x\\]: javascript:alert(1)"),
            ("[x](../docs/a.md) [y]", "[x](../docs/a.md) [y]"),
            ("\u{1b}[31m", " [31m"),
        ] {
            assert_eq!(safe_markdown(text), safe);
        }
    }

    /// Brackets that begin no link cost no more than other text; a second is a bound that guards against a hang.
    #[test]
    fn prose_of_any_kind_is_laid_out() {
        for text in ["[", "*", "**", "` ", "# ", "- ", "[x](", "](", "*a **b "] {
            let long = text.repeat(300_000 / text.len());
            let html = blocks(&long);
            assert!(!html.is_empty() && !html.contains("<a "));
        }
        let seed = "# T\n\n- a `x < 1` **b** *c* [d](https://e.org) <script>alert(1)</script>\n[x](javascript:y) | \"q\"";
        for mutant in crate::mutants::of(seed.as_bytes(), 7, 2000) {
            let html = blocks(&String::from_utf8_lossy(&mutant));
            let tags = html.split('<').skip(1).map(|rest| rest.split(['>', ' ']).next().unwrap_or_default());
            let known = ["p", "ul", "li", "h4", "code", "strong", "em", "a"];
            for tag in tags {
                assert!(known.contains(&tag.trim_start_matches('/')), "{tag} in {html}");
            }
            assert!(
                html.split("href=\"").skip(1).all(|rest| !rest.to_lowercase().starts_with("javascript:"))
            );
        }
    }
}
