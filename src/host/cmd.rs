//! Commands as values: what is to be run, as whom, with which bounds; and who runs them.

use super::Pending;
use crate::value::Secret;
use anyhow::Result;
use std::time::Duration;

/// A command to run. Arguments are never parsed by a shell; secrets go into the environment.
#[derive(Debug, Clone)]
pub struct Cmd {
    pub program: String,
    pub args: Vec<String>,
    pub(super) env: Vec<(String, Secret)>,
    pub(super) ids: Option<(u32, u32)>,
    pub(super) directory: Option<String>,
    pub(super) deadline: Duration,
    /// The most that it may print, in bytes, where what it prints is used.
    pub(super) max_output: usize,
    /// How long it may neither read nor write anything.
    pub(super) idle: Option<Duration>,
    /// What the program reads on its standard input; nothing unless told otherwise.
    pub(super) input: Secret,
    /// A file that it reads on its standard input instead.
    pub(super) input_file: Option<String>,
    /// A new file, for root alone, that takes its standard output.
    pub(super) output_file: Option<String>,
    /// Texts that must not appear in an error even if the program prints them.
    masked: Vec<Secret>,
}

impl Cmd {
    pub fn new<I, A>(program: &str, args: I) -> Cmd
    where
        I: IntoIterator<Item = A>,
        A: Into<String>,
    {
        Cmd {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            ids: None,
            directory: None,
            deadline: Duration::from_secs(60),
            max_output: MAX_OUTPUT,
            idle: None,
            input: Secret::new(""),
            input_file: None,
            output_file: None,
            masked: Vec::new(),
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: &str) -> Cmd {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Cmd {
        self.env.push((name.to_owned(), Secret::new(value)));
        self
    }

    /// Runs as this user and group, without supplementary groups.
    pub fn ids(self, ids: (u32, u32)) -> Cmd {
        Cmd { ids: Some(ids), ..self }
    }

    pub fn directory(self, path: &str) -> Cmd {
        Cmd { directory: Some(path.to_owned()), ..self }
    }

    /// How long the command may take; 60 s unless told otherwise.
    pub fn deadline(self, deadline: Duration) -> Cmd {
        Cmd { deadline, ..self }
    }

    /// How much the command may print, in bytes; 4 MiB unless told otherwise. More is an error where the output is used.
    pub fn max_output(self, max_output: usize) -> Cmd {
        Cmd { max_output, ..self }
    }

    /// It is stopped if it neither reads nor writes anything for so long: somebody whom it talks to does not answer any more.
    pub fn idle(self, limit: Duration) -> Cmd {
        Cmd { idle: Some(limit), ..self }
    }

    /// The program that it is about, and its arguments: not the one that only starts it.
    pub(super) fn title(&self) -> (&str, &[String]) {
        match &self.args[..] {
            [_, _, starter, _, program, rest @ ..] if self.program == "setpriv" && starter == "setsid" => {
                (program, rest)
            }
            [_, _, program, rest @ ..] if self.program == "setpriv" => (program, rest),
            _ => (&self.program, &self.args),
        }
    }

    /// Text for the program's standard input: the way for secrets.
    pub fn input(self, input: impl Into<String>) -> Cmd {
        Cmd { input: Secret::new(input), ..self }
    }

    /// The file that the program reads on its standard input; it is opened by this process, whoever the program runs as. A link in its
    /// place is an error: the directory may be somebody else's.
    pub fn input_file(self, path: &std::path::Path) -> Cmd {
        Cmd { input_file: Some(path.display().to_string()), ..self }
    }

    /// The file that takes the program's standard output. It is made anew by this process, for its own user alone: what lay there under
    /// its name, a link included, is removed and not written to.
    pub fn output_file(self, path: &std::path::Path) -> Cmd {
        Cmd { output_file: Some(path.display().to_string()), ..self }
    }

    pub fn mask(mut self, text: &str) -> Cmd {
        self.masked.push(Secret::new(text));
        self
    }

    pub(super) fn masked_text(&self, text: &str) -> String {
        self.masked.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "(secret)"))
    }
}

/// What a command left.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All of it, but after `Host::act`, which keeps none.
    pub stdout: String,
    /// The last 8 KiB of it.
    pub stderr: String,
    /// It printed more than was kept. Whoever uses the output never sees one of these: see [`Host::read_output`].
    pub(super) is_cut: bool,
}

/// The most that a command may print unless told otherwise, in bytes.
pub const MAX_OUTPUT: usize = 4 << 20;
/// The most of stderr that is kept, in bytes.
pub const MAX_TAIL: usize = 8 << 10;

/// Runs commands.
pub trait Exec: Send + Sync {
    /// Runs to the end; an exit code other than 0 is not an error here.
    fn run<'a>(&'a self, cmd: &'a Cmd) -> Pending<'a, Result<Output>>;
    /// Runs two, the second one reading what the first one prints. It only comes to the end of that once the first one has ended well; else
    /// it is killed. Gives back what each left; the second one's code is `None` where it was killed.
    fn feed<'a>(&'a self, from: &'a Cmd, into: &'a Cmd) -> Pending<'a, Result<(Output, Output)>>;
}
