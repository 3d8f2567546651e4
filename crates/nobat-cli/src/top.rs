//! `nobat top`: how a deployment does, live in a terminal.
//!
//! A thread asks the API once a second and hands over what it was answered ([`look`]); this
//! one draws ([`draw`]) and reads keys. Whatever ends it gives the terminal back as it was:
//! `q`, a signal, a panic (by ratatui's hook).

mod draw;
mod look;

use nobat_runtime::streams::print_bytes;
use std::io::IsTerminal;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Result, bail};
use nobat_runtime::Stop;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::client::{Server, block_on};
use look::{Look, Past};

/// How long keys are waited for between two pictures.
const FRAME: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Show how the deployment does, live: rates, latency, queues, workers, what is ill.
#[derive(clap::Args)]
#[command(after_help = "Keys:\n  q, Esc, Ctrl-C  quit\n  p               pause and go on")]
pub(crate) struct Args {
    #[command(flatten)]
    server: Server,
    /// Print it once, as plain text; so it does where the output is no terminal.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    every: f64,
}

/// What the asking thread says.
enum Said {
    Seen(Box<Look>),
    /// The service cannot be asked, and why.
    Failed(String),
    /// A signal asked the program to end.
    Stop,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !(0.2..=3600.0).contains(&args.every) {
        bail!("--every is {}; it takes 0.2 to 3600 seconds", args.every);
    }
    let client = args.server.client(TIMEOUT)?;
    if args.once || !std::io::stdout().is_terminal() {
        let look = block_on(async { Look::take(&client, &mut Past::default()).await })?;
        return Ok(print_bytes(draw::plain(&look).as_bytes())?);
    }
    let (sender, receiver) = mpsc::channel();
    let every = Duration::from_secs_f64(args.every);
    let asking = std::thread::Builder::new().name("nobat-top".into()).spawn(move || {
        let asked = block_on(async {
            let mut stop = Stop::listen()?;
            let mut past = Past::default();
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let Some(_) = stop.unless_asked(ticks.tick()).await else { break };
                let Some(look) = stop.unless_asked(Look::take(&client, &mut past)).await else { break };
                let said =
                    look.map_or_else(|error| Said::Failed(format!("{error:#}")), |look| Said::Seen(Box::new(look)));
                if sender.send(said).is_err() {
                    return Ok(());
                }
            }
            // Nobody hears it when the terminal is given back already.
            let _ = sender.send(Said::Stop);
            Ok(())
        });
        if let Err(error) = asked {
            log::debug!("asking ended: {error:#}");
        }
    })?;
    let shown = with_terminal(|terminal| follow(terminal, &receiver, args.server.url()));
    drop(receiver);
    // It ends with the next thing that it would say: nobody waits for that.
    drop(asking);
    shown
}

/// Takes the terminal, and gives it back however `work` ends.
fn with_terminal<T>(work: impl FnOnce(&mut DefaultTerminal) -> Result<T>) -> Result<T> {
    let mut terminal = ratatui::try_init()?;
    let done = work(&mut terminal);
    ratatui::restore();
    done
}

/// Draws what is seen until somebody has had enough.
fn follow(terminal: &mut DefaultTerminal, said: &Receiver<Said>, url: &str) -> Result<()> {
    let (mut look, mut trouble, mut paused) = (None, None, false);
    loop {
        for said in said.try_iter() {
            match said {
                Said::Stop => return Ok(()),
                Said::Failed(why) => trouble = Some(why),
                Said::Seen(_) if paused => trouble = None,
                Said::Seen(seen) => (look, trouble) = (Some(seen), None),
            }
        }
        terminal.draw(|frame| draw::draw(frame, look.as_deref(), trouble.as_deref(), paused, url))?;
        if !event::poll(FRAME)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind == KeyEventKind::Release => {}
            _ if is_interrupt => return Ok(()),
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('p') => paused = !paused,
            _ => {}
        }
    }
}
