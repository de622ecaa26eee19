//! `ringpost user`: manages the users file. Passwords are read from standard input; on a terminal
//! there is a prompt without echo.

use super::arguments::UserCommand;
use crate::auth::{self, Sender, User, UsersError};
use crate::config::Config;
use crate::sasl::Secret;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

/// Longest line that is read from standard input, in bytes: longer than any password.
const LINE_BYTES_MAX: u64 = 4096;

/// Runs the command.
pub(super) fn run(config: &Config, command: UserCommand) -> ExitCode {
    let Some(path) = &config.auth.users else {
        eprintln!("ringpost: no users file; use --users FILE, or set auth.users");
        return ExitCode::from(super::EXIT_USAGE);
    };
    let done = match command {
        UserCommand::Add { name, sender, replace, .. } => password(true).and_then(|password| {
            auth::add(path, &name, &password, &sender, replace).map_err(message)
        }),
        UserCommand::List { .. } => list(path).map_err(message),
        UserCommand::Remove { name, .. } => auth::remove(path, &name).map_err(message),
        UserCommand::Verify { name, .. } => verify(path, &name),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("ringpost: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Checks the users file, if there is one, and prints warnings.
pub(super) fn check(config: &Config) -> Result<(), UsersError> {
    let Some(path) = &config.auth.users else { return Ok(()) };
    let users = auth::read(path)?;
    for warning in users.warnings(config.tls.client_roots.is_some()) {
        eprintln!("ringpost: warning: {}: {warning}", path.display());
    }
    Ok(())
}

fn message(error: UsersError) -> String {
    error.to_string()
}

fn list(path: &Path) -> Result<(), UsersError> {
    for user in auth::read(path)?.sorted() {
        println!("{}", line(&user));
    }
    Ok(())
}

/// One line: the name, the means to log in, and the allowed senders.
fn line(user: &User) -> String {
    let means = [
        ("password", user.password.is_some()),
        ("scram", user.scram.is_some()),
        ("certificate", !user.certificates.is_empty() || !user.certificate_names.is_empty()),
    ];
    let means: Vec<&str> = means.into_iter().filter_map(|(one, has)| has.then_some(one)).collect();
    let means = if means.is_empty() { "cannot log in".to_owned() } else { means.join(",") };
    let senders = match user.senders.as_deref() {
        None => "any sender".to_owned(),
        Some([]) => "no sender".to_owned(),
        Some(some) => some.iter().map(Sender::to_string).collect::<Vec<_>>().join(" "),
    };
    format!("{}\t{means}\t{senders}", user.name)
}

fn verify(path: &Path, name: &str) -> Result<(), String> {
    let users = auth::read(path).map_err(message)?;
    let user = users.find(name).ok_or_else(|| format!("there is no user {name:?}"))?;
    let password = password(false)?;
    let by_hash = auth::password_is(Some(user), &password);
    let by_keys = auth::keys_are_of(user, &password);
    match (by_hash || user.password.is_none(), by_keys.unwrap_or(true)) {
        (true, true) if by_hash || by_keys.is_some() => {
            println!("the password of {:?} is right", &*user.name);
            Ok(())
        }
        (false, true) if by_keys.is_some() => {
            Err("the password matches the SCRAM keys, but not the hash".to_owned())
        }
        (true, false) if by_hash => {
            Err("the password matches the hash, but not the SCRAM keys".to_owned())
        }
        _ => Err(format!("the password of {:?} is wrong", &*user.name)),
    }
}

/// Reads a password: a line of standard input; on a terminal without echo, and `twice` if it is
/// new.
fn password(twice: bool) -> Result<Secret, String> {
    if io::stdin().is_terminal() {
        let ask = |prompt| rpassword::prompt_password(prompt).map_err(|error| error.to_string());
        let one = ask("Password: ")?;
        if twice && ask("Again: ")? != one {
            return Err("the passwords do not match; nothing was changed".to_owned());
        }
        return Ok(Secret::new(one));
    }
    let mut line = Vec::new();
    io::stdin()
        .lock()
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .map_err(|error| format!("no password on standard input: {error}"))?;
    let line = String::from_utf8(line).map_err(|_| "the password is not UTF-8".to_owned())?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let password = line.strip_suffix('\r').unwrap_or(line);
    if password.is_empty() {
        return Err("no password on standard input".to_owned());
    }
    Ok(Secret::new(password))
}
