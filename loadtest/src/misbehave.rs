//! How the sink misbehaves: at which step, how often, and how.
//!
//! Pure: it gets random numbers and decides; the sink acts.

/// The steps of a transaction at which a sink can misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// After accept: refusals are sent as greeting and close at once; a hang-up resets.
    Connect,
    /// The greeting: refusals wait for QUIT (RFC 5321 3.1); a hang-up leaves half a greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// MAIL.
    Mail,
    /// Each RCPT.
    Rcpt,
    /// The DATA command.
    Data,
    /// In the middle of the content: a reply here closes.
    Content,
    /// The final dot.
    End,
}

/// All steps with their names on the command line, in the order of a transaction.
pub const STEPS: [(Step, &str); 8] = [
    (Step::Connect, "connect"),
    (Step::Greeting, "greeting"),
    (Step::Ehlo, "ehlo"),
    (Step::Mail, "mail"),
    (Step::Rcpt, "rcpt"),
    (Step::Data, "data"),
    (Step::Content, "content"),
    (Step::End, "end"),
];

/// What to do at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Behave as a correct server.
    Go,
    /// Answer with this code, 500 to 599.
    Refuse(u16),
    /// Answer with this code, 400 to 499.
    Defer(u16),
    /// Close without an answer.
    HangUp,
}

/// One rule as given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The step.
    pub step: Step,
    /// The percentage, 0 to 100.
    pub percent: f64,
    /// What.
    pub act: Act,
}

/// One delay as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Where.
    pub step: Step,
    /// How long, in milliseconds.
    pub milliseconds: u64,
}

/// Reads `STEP=PERCENT[:CODE]` with a code of 500 to 599.
pub fn parse_refuse(text: &str) -> Result<Rule, String> {
    let (step, percent, code) = parse(text)?;
    let usual = match step {
        Step::Mail | Step::Rcpt | Step::Ehlo => 550,
        _ => 554,
    };
    let code = code.unwrap_or(usual);
    if !(500..=599).contains(&code) {
        return Err(String::from("a refusal has a code of 500 to 599"));
    }
    Ok(Rule { step, percent, act: Act::Refuse(code) })
}

/// Reads `STEP=PERCENT[:CODE]` with a code of 400 to 499.
pub fn parse_defer(text: &str) -> Result<Rule, String> {
    let (step, percent, code) = parse(text)?;
    let usual = match step {
        Step::Connect | Step::Greeting => 421,
        Step::Rcpt => 450,
        _ => 451,
    };
    let code = code.unwrap_or(usual);
    if !(400..=499).contains(&code) {
        return Err(String::from("a deferral has a code of 400 to 499"));
    }
    Ok(Rule { step, percent, act: Act::Defer(code) })
}

/// Reads `STEP=PERCENT`.
pub fn parse_hang_up(text: &str) -> Result<Rule, String> {
    match parse(text)? {
        (step, percent, None) => Ok(Rule { step, percent, act: Act::HangUp }),
        _ => Err(String::from("a hang-up has no code")),
    }
}

/// Reads `STEP=MILLISECONDS`, at most an hour.
pub fn parse_delay(text: &str) -> Result<Delay, String> {
    let (name, value) = text.split_once('=').ok_or("must be STEP=MILLISECONDS")?;
    match value.parse() {
        Ok(milliseconds) if milliseconds <= 3_600_000 => {
            Ok(Delay { step: step_named(name)?, milliseconds })
        }
        _ => Err(format!("'{value}' must be 0 to 3600000 milliseconds")),
    }
}

fn parse(text: &str) -> Result<(Step, f64, Option<u16>), String> {
    let (name, value) = text.split_once('=').ok_or("must be STEP=PERCENT")?;
    let step = step_named(name)?;
    let (percent, code) = match value.split_once(':') {
        Some((percent, code)) => {
            let code = code.parse().map_err(|_| format!("'{code}' is not a reply code"))?;
            (percent, Some(code))
        }
        None => (value, None),
    };
    match percent.parse::<f64>() {
        Ok(share) if (0.0..=100.0).contains(&share) => Ok((step, share, code)),
        _ => Err(format!("'{percent}' must be a percentage, 0 to 100")),
    }
}

fn step_named(name: &str) -> Result<Step, String> {
    let found = STEPS.iter().find(|(_, known)| *known == name);
    found.map(|(step, _)| *step).ok_or_else(|| {
        let names: Vec<&str> = STEPS.iter().map(|(_, known)| *known).collect();
        format!("'{name}' is no step: use one of {}", names.join(", "))
    })
}

/// All rules together, by step.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    steps: [At; 8],
}

#[derive(Clone, Debug, Default)]
struct At {
    rules: Vec<Rule>,
    delay: Option<u64>,
}

impl Plan {
    /// # Errors
    /// The percentages of one step add up to more than 100.
    pub fn new(rules: impl Iterator<Item = Rule>, delays: &[Delay]) -> Result<Self, String> {
        let mut plan = Self::default();
        for rule in rules {
            if let Some(at) = plan.steps.get_mut(rule.step as usize) {
                at.rules.push(rule);
            }
        }
        for delay in delays {
            if let Some(at) = plan.steps.get_mut(delay.step as usize) {
                at.delay = Some(delay.milliseconds);
            }
        }
        for ((_, name), at) in STEPS.iter().zip(&plan.steps) {
            let sum: f64 = at.rules.iter().map(|rule| rule.percent).sum();
            if sum > 100.0 + 1e-9 {
                return Err(format!("the percentages at {name} add up to {sum}, over 100"));
            }
        }
        Ok(plan)
    }

    /// What to do at `step`.
    pub fn draw(&self, step: Step, rng: &mut fastrand::Rng) -> Act {
        let rules = self.steps.get(step as usize).map_or([].as_slice(), |at| &at.rules);
        if rules.is_empty() {
            return Act::Go;
        }
        let mut point = rng.f64() * 100.0;
        for rule in rules {
            if point < rule.percent {
                return rule.act;
            }
            point -= rule.percent;
        }
        Act::Go
    }

    /// How long to wait at `step`, in milliseconds.
    pub fn delay(&self, step: Step) -> Option<u64> {
        self.steps.get(step as usize).and_then(|at| at.delay)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_read_with_their_usual_codes() {
        let rule = parse_refuse("rcpt=2.5").unwrap();
        assert_eq!(rule, Rule { step: Step::Rcpt, percent: 2.5, act: Act::Refuse(550) });
        assert_eq!(parse_defer("end=10:452").unwrap().act, Act::Defer(452));
        assert_eq!(parse_defer("greeting=10").unwrap().act, Act::Defer(421));
        assert_eq!(parse_delay("data=20").unwrap().milliseconds, 20);
    }

    #[test]
    fn shares_come_out_as_asked() {
        let rules = ["mail=20", "mail=30"].map(|text| parse_refuse(text).unwrap());
        let plan = Plan::new(rules.into_iter(), &[]).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let hit = (0..10_000).filter(|_| plan.draw(Step::Mail, &mut rng) != Act::Go).count();
        assert!((4_700..5_300).contains(&hit), "{hit}");
        assert_eq!(plan.draw(Step::Data, &mut rng), Act::Go);
    }

    #[test]
    fn more_than_everything_is_refused() {
        let rules = ["mail=60", "mail=50"].map(|text| parse_refuse(text).unwrap());
        assert!(Plan::new(rules.into_iter(), &[]).unwrap_err().contains("mail add up to 110"));
    }
}
