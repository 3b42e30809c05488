//! The little Markdown that experiment files use, as HTML: paragraphs, lists, `code`, **bold**,
//! *emphasis* and [links](…). Everything else, HTML included, comes out as plain text.

/// Paragraphs, lists and headings.
pub(super) fn blocks(text: &str) -> String {
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

/// `[label](target)` with a web or relative target.
fn link(text: &str) -> Option<(String, &str)> {
    let (label, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (target, after) = rest.split_once(')')?;
    let is_safe = !target.contains(':') || target.starts_with("https://") || target.starts_with("http://");
    is_safe.then(|| (format!("<a href=\"{}\">{}</a>", escape(target), escape(label)), after))
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
        assert_eq!(inline("[x](javascript:alert)"), "[x](javascript:alert)");
        assert_eq!(
            blocks("One\ntwo.\n\n- first\n  line\n- second\n\nThree."),
            "<p>One two.</p>\n<ul>\n<li>first line</li>\n<li>second</li>\n</ul>\n<p>Three.</p>\n"
        );
    }
}
