//! Named contexts in a Dockerfile: the names are replaced by the images that stand for them. Pure; everything else in the file stays as
//! it is.

use std::collections::BTreeMap;

/// The file with every image name that is a named context replaced: in `FROM`, in `--from` of `COPY` and `ADD`, in `from` of `RUN`'s
/// `--mount` (Dockerfile reference). Names are compared as Docker does, without case.
pub fn with_contexts(text: &str, contexts: &BTreeMap<String, String>) -> String {
    if contexts.is_empty() {
        return text.to_owned();
    }
    let escape = escape_of(text);
    let mut out = String::with_capacity(text.len());
    let mut instruction: Option<Instruction> = None;
    let mut heredocs: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        if let Some(end) = heredocs.first() {
            // `<<-` strips tabs before the terminator.
            if bare.trim_start_matches('\t') == end {
                heredocs.remove(0);
            }
            out.push_str(line);
            continue;
        }
        let is_comment = bare.trim_start().starts_with('#');
        let is_empty = bare.trim().is_empty();
        if is_comment || (is_empty && instruction.is_some()) {
            out.push_str(line);
            continue;
        }
        let mut current = instruction.take().unwrap_or_default();
        for token in tokens(line) {
            out.push_str(&current.replace(token, contexts));
        }
        if matches!(current.name.as_str(), "RUN" | "COPY" | "ADD") {
            heredocs.extend(heredocs_of(bare));
        }
        if bare.trim_end().ends_with(escape) && heredocs.is_empty() {
            instruction = Some(current);
        }
    }
    out
}

/// The parser directive `escape`, which can only stand among the first comments.
fn escape_of(text: &str) -> char {
    let directives = text.lines().map_while(|line| line.trim().strip_prefix('#'));
    let value = directives.filter_map(|line| line.split_once('=')).find(|(name, _)| name.trim() == "escape");
    value.and_then(|(_, value)| value.trim().chars().next()).unwrap_or('\\')
}

/// White space and words in turn; together they are the line.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest.find(|c: char| c.is_whitespace() != first.is_whitespace()).unwrap_or(rest.len());
        let (token, left) = rest.split_at(end);
        rest = left;
        Some(token)
    })
}

/// How far into an instruction the reading is.
#[derive(Default)]
struct Instruction {
    name: String,
    past_flags: bool,
}

impl Instruction {
    fn replace(&mut self, token: &str, contexts: &BTreeMap<String, String>) -> String {
        let known = |name: &str| contexts.get(&name.to_ascii_lowercase());
        let is_word = !token.starts_with(char::is_whitespace);
        if !is_word || self.past_flags || token == "\\" || token == "`" {
            return token.to_owned();
        }
        if self.name.is_empty() {
            self.name = token.to_ascii_uppercase();
            return token.to_owned();
        }
        if !token.starts_with("--") {
            self.past_flags = true;
            return match known(token).filter(|_| self.name == "FROM") {
                Some(image) => image.clone(),
                None => token.to_owned(),
            };
        }
        match (self.name.as_str(), token.split_once('=')) {
            ("COPY" | "ADD", Some(("--from", name))) => match known(name) {
                Some(image) => format!("--from={image}"),
                None => token.to_owned(),
            },
            ("RUN", Some(("--mount", options))) => {
                let option = |option: &str| match option.strip_prefix("from=").and_then(known) {
                    Some(image) => format!("from={image}"),
                    None => option.to_owned(),
                };
                format!("--mount={}", options.split(',').map(option).collect::<Vec<_>>().join(","))
            }
            _ => token.to_owned(),
        }
    }
}

/// The terminators of the here-documents that a line begins.
fn heredocs_of(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    for piece in line.split("<<").skip(1) {
        let word = piece.strip_prefix('-').unwrap_or(piece);
        let word: String = match word.chars().next() {
            Some(quote @ ('"' | '\'')) => word[1..].split(quote).next().unwrap_or_default().to_owned(),
            _ => word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect(),
        };
        if !word.is_empty() {
            all.push(word);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_where_docker_looks_for_them_and_nowhere_else() {
        let contexts = BTreeMap::from([("base".to_owned(), "app-base:1".to_owned())]);
        for (before, after) in [
            ("FROM base\n", "FROM app-base:1\n"),
            ("from --platform=linux/amd64 Base AS base2\n", "from --platform=linux/amd64 app-base:1 AS base2\n"),
            ("FROM x AS base\n", "FROM x AS base\n"),
            ("COPY --chown=1:1 --from=base base /x\n", "COPY --chown=1:1 --from=app-base:1 base /x\n"),
            (
                "RUN --mount=type=bind,from=base,target=/b \\\n  --mount=from=base echo base --from=base\n",
                "RUN --mount=type=bind,from=app-base:1,target=/b \\\n  --mount=from=app-base:1 echo base --from=base\n",
            ),
            (
                "# FROM base\nRUN <<EOF\nFROM base\nEOF\nFROM base",
                "# FROM base\nRUN <<EOF\nFROM base\nEOF\nFROM app-base:1",
            ),
            ("# escape=`\nRUN dir c:\\\nFROM base\n", "# escape=`\nRUN dir c:\\\nFROM app-base:1\n"),
            ("RUN a \\\n# why\n\n  b\nFROM base\n", "RUN a \\\n# why\n\n  b\nFROM app-base:1\n"),
            ("ARG base\nFROM ${base}\nWORKDIR base\n", "ARG base\nFROM ${base}\nWORKDIR base\n"),
        ] {
            assert_eq!(with_contexts(before, &contexts), after);
        }
    }
}
