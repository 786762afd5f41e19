//! `sluice top`: what happens now, refreshed each second.

mod draw;
mod picture;

use crate::admin::{CallError, Client};
use draw::Screen;
use picture::{Picture, Sample, Table, View};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two pictures.
const PAUSE: Duration = Duration::from_secs(1);
/// The screen of `--once`, where there is no terminal to ask.
const USUAL: (u16, u16) = (80, 24);

/// Whether colours are wanted: on a terminal, unless NO_COLOR is set (no-color.org).
fn has_colors() -> bool {
    let is_asked_not_to = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !is_asked_not_to
}

/// Prints one picture of a second as text.
pub(super) fn once(client: &mut Client) -> Result<(), CallError> {
    let mut picture = Picture::new(Sample::take(client, &View::Services)?);
    std::thread::sleep(PAUSE);
    picture.renew(Sample::take(client, &View::Services)?);
    let (width, height) = match std::io::stdout().is_terminal() {
        true => ratatui::crossterm::terminal::size().unwrap_or(USUAL),
        false => USUAL,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(broken)?;
    let mut screen = Screen::new(false);
    screen.rows.select(None);
    terminal.draw(|frame| drop(draw::draw(frame, &picture, &mut screen))).map_err(broken)?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for line in buffer.content().chunks(usize::from(width.max(1))) {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    super::finish(std::io::stdout().lock().write_all(text.as_bytes()))
}

fn broken(error: impl std::fmt::Display) -> CallError {
    CallError::Broken(format!("the terminal: {error}"))
}

/// Shows pictures until the user ends it. A daemon that goes away is waited for.
pub(super) fn run(client: Client, socket: &Path) -> Result<(), CallError> {
    if !std::io::stdout().is_terminal() {
        return Err(CallError::Refused("this is no terminal; --once prints one picture as text".into()));
    }
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let result = show(&mut terminal, client, socket);
    ratatui::restore();
    result
}

fn show(terminal: &mut ratatui::DefaultTerminal, mut client: Client, socket: &Path) -> Result<(), CallError> {
    let mut screen = Screen::new(has_colors());
    let mut picture = Picture::new(Sample::take(&mut client, &screen.view)?);
    let mut due = Instant::now() + PAUSE;
    let (mut is_held, mut is_new) = (false, false);
    loop {
        let mut table = Table::default();
        terminal.draw(|frame| table = draw::draw(frame, &picture, &mut screen)).map_err(broken)?;
        if event::poll(due.saturating_duration_since(Instant::now())).map_err(broken)? {
            let view = screen.view.clone();
            match event::read().map_err(broken)? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let ends =
                        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    if ends || screen.press(key.code, &table, &mut is_held) {
                        return Ok(());
                    }
                }
                // Another size is drawn anew as anything else is.
                _ => {}
            }
            if view == screen.view {
                continue;
            }
            // What the new view needs is asked for at once.
            is_new = true;
        }
        let is_again = std::mem::take(&mut is_new);
        if !is_again && Instant::now() < due {
            continue;
        }
        if !is_again {
            due = Instant::now() + PAUSE;
        }
        if is_held && !is_again {
            continue;
        }
        match Sample::take(&mut client, &screen.view) {
            Ok(sample) => {
                if is_again {
                    picture.look_again(sample);
                } else {
                    picture.renew(sample);
                }
                screen.trouble = None;
            }
            Err(CallError::Refused(why)) => screen.trouble = Some(why),
            Err(CallError::Broken(why)) => {
                screen.trouble = Some(why);
                if let Ok(other) = Client::connect(socket) {
                    client = other;
                }
            }
        }
    }
}

impl Screen {
    /// Does what a key asks for. Returns whether it is the end.
    fn press(&mut self, key: KeyCode, table: &Table, is_held: &mut bool) -> bool {
        if self.typing {
            match key {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => (self.typing, self.order.filter) = (false, String::new()),
                KeyCode::Backspace => drop(self.order.filter.pop()),
                KeyCode::Char(letter) => self.order.filter.push(letter),
                _ => {}
            }
            return false;
        }
        let chosen = || table.rows.get(self.rows.selected()?)?.first().map(|cell| cell.text.clone());
        match key {
            KeyCode::Char('q') => return true,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('1') => self.go(View::Services),
            KeyCode::Char('2') => self.go(View::Clients(None)),
            KeyCode::Char('3') => self.go(View::Drops),
            KeyCode::Char('4') => self.go(View::Events),
            KeyCode::Char('s') => {
                let next = self.order.column.map_or(0, |column| column + 1);
                self.order.column = (next < table.titles.len()).then_some(next);
            }
            KeyCode::Char('r') => self.order.is_reversed = !self.order.is_reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char(' ') => *is_held = !*is_held,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Esc if !self.order.filter.is_empty() => self.order.filter.clear(),
            KeyCode::Esc => match self.view.clone() {
                View::Clients(Some(name)) => self.go(View::Servers(name)),
                _ => self.go(View::Services),
            },
            KeyCode::Enter => match (self.view.clone(), chosen()) {
                (View::Services, Some(name)) => self.go(View::Servers(name)),
                (View::Servers(name), _) => self.go(View::Clients(Some(name))),
                _ => {}
            },
            KeyCode::Down => self.rows.scroll_down_by(1),
            KeyCode::Up => self.rows.scroll_up_by(1),
            KeyCode::PageDown => self.rows.scroll_down_by(10),
            KeyCode::PageUp => self.rows.scroll_up_by(10),
            KeyCode::Home => self.rows.select(Some(0)),
            KeyCode::End => self.rows.select(Some(table.rows.len().saturating_sub(1))),
            _ => {}
        }
        false
    }

    fn go(&mut self, view: View) {
        self.view = view;
        self.rows.select(Some(0));
        self.order = picture::Order::default();
    }
}
