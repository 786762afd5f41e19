//! A picture on a screen of 80 columns and 24 lines, or more.

use super::picture::{Order, Picture, Table, View, scaled};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, TableState};
use serde_json::Value;

/// What the user has chosen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) view: View,
    pub(super) order: Order,
    /// The row that is chosen, and the first that is seen.
    pub(super) rows: TableState,
    /// The text of a filter that is being written.
    pub(super) typing: bool,
    pub(super) help: bool,
    /// Why there is no newer picture.
    pub(super) trouble: Option<String>,
    pub(super) has_colors: bool,
}

impl Screen {
    pub(super) fn new(has_colors: bool) -> Self {
        Self {
            view: View::Services,
            order: Order::default(),
            rows: TableState::default().with_selected(0),
            typing: false,
            help: false,
            trouble: None,
            has_colors,
        }
    }

    fn color(&self, color: Color) -> Style {
        if self.has_colors { Style::new().fg(color) } else { Style::new() }
    }

    /// The colour of a state.
    fn state(&self, text: &str) -> Style {
        match text {
            "ready" | "up" => self.color(Color::Green),
            "down" | "unready" | "unreachable" | "error" => self.color(Color::Red),
            "protected" | "full" | "draining" | "checking" | "inhibited" | "sorry" | "warn" => {
                self.color(Color::Yellow)
            }
            _ => Style::new(),
        }
    }
}

/// Workers that have a bar each; of more the busiest.
const BARS: usize = 4;
/// Ports that have a line each.
const PORTS: usize = 4;

const HELP: &[&str] = &[
    "1 services   2 clients   3 drops   4 events",
    "up, down, page up, page down   choose a row",
    "enter    the service's servers; again: its clients",
    "esc      back",
    "s        sort by the next column",
    "r        turn the order round",
    "/        show only rows with this text; esc takes it away",
    "space    hold the picture still",
    "?        this help",
    "q        end",
];

/// Draws everything. Returns the table that is seen, as it is arranged.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture, screen: &mut Screen) -> Table {
    let (workers, ports) = (picture.now.workers.len().min(BARS), picture.now.ports.len().min(PORTS));
    let parts = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(workers as u16),
        Constraint::Length(ports as u16 + 1),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, bars, of_ports, body, foot] = parts.areas(frame.area());
    totals(frame, head, picture, screen);
    busy(frame, bars, &picture.now.workers, screen);
    let (table, _) = picture.ports().arranged(&Order::default());
    let widths = [12, 7, 9, 10, 9, 10, 9].map(Constraint::Length);
    frame.render_widget(widget(&table, screen, None, &widths), of_ports);
    let (table, column) = picture.table(&screen.view).arranged(&screen.order);
    let chosen = screen.rows.selected().unwrap_or(0).min(table.rows.len().saturating_sub(1));
    screen.rows.select(Some(chosen));
    let filter = match (screen.typing, screen.order.filter.is_empty()) {
        (true, _) => format!("  /{}_", screen.order.filter),
        (false, false) => format!("  /{}", screen.order.filter),
        (false, true) => String::new(),
    };
    let title = format!(" {}{filter} ", table.heading);
    let widths = widths_of(&screen.view);
    let list = widget(&table, screen, Some(column), &widths)
        .block(Block::new().borders(Borders::TOP).title(title))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(list, body, &mut screen.rows);
    let foot_text = match &screen.trouble {
        Some(trouble) => Line::styled(trouble.clone(), screen.color(Color::Red)),
        None => Line::raw("1 services 2 clients 3 drops 4 events  enter servers  s sort  ? help  q quit"),
    };
    frame.render_widget(foot_text, foot);
    if screen.help {
        help(frame);
    }
    table
}

fn widths_of(view: &View) -> Vec<Constraint> {
    match view {
        View::Services => [
            Constraint::Min(10),
            Constraint::Length(9),
            Constraint::Length(5),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Min(13),
        ]
        .into(),
        View::Servers(_) => [
            Constraint::Min(18),
            Constraint::Length(11),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Min(6),
        ]
        .into(),
        View::Clients(_) => vec![Constraint::Length(40), Constraint::Length(10)],
        View::Drops => {
            vec![Constraint::Length(22), Constraint::Length(10), Constraint::Length(7), Constraint::Min(20)]
        }
        View::Events => {
            vec![Constraint::Length(19), Constraint::Length(5), Constraint::Length(9), Constraint::Min(20)]
        }
    }
}

fn widget<'a>(
    table: &Table,
    screen: &Screen,
    sorted: Option<usize>,
    widths: &[Constraint],
) -> ratatui::widgets::Table<'a> {
    let is_right =
        |at: usize| table.rows.first().and_then(|row| row.get(at)).is_some_and(|cell| cell.is_number());
    let aligned = |at: usize, line: Line<'a>| if is_right(at) { line.right_aligned() } else { line };
    let titles = table.titles.iter().enumerate().map(|(at, title)| {
        let mark = if sorted == Some(at) { "*" } else { "" };
        Cell::new(aligned(at, Line::raw(format!("{title}{mark}"))))
    });
    let rows = table.rows.iter().map(|row| {
        let cells = row.iter().enumerate().map(|(at, cell)| {
            let style = screen.state(&cell.text);
            Cell::new(aligned(at, Line::styled(cell.text.clone(), style)))
        });
        Row::new(cells.collect::<Vec<_>>())
    });
    ratatui::widgets::Table::new(rows.collect::<Vec<_>>(), widths.to_vec())
        .header(Row::new(titles.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(1)
}

fn totals(frame: &mut Frame<'_>, area: Rect, picture: &Picture, screen: &Screen) {
    let status = &picture.now.status;
    let number = |key: &str| status[key].as_f64().unwrap_or(0.0);
    let count = |key: &str| scaled(number(key), "");
    let states = status["service_states"].as_object().into_iter().flatten();
    let states =
        states.filter(|(_, count)| count.as_u64() > Some(0)).map(|(name, count)| format!("{count} {name}"));
    let warnings = status["warnings"].as_array().map_or(0, Vec::len);
    let [pin, pout, bin, bout] = picture.traffic();
    let hours = number("uptime_s") / 3_600.0;
    let lines = vec![
        Line::from(vec![
            Span::styled("sluice", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                " {}  up {hours:.1} h  services {}",
                status["version"].as_str().unwrap_or_default(),
                states.collect::<Vec<_>>().join(", ")
            )),
            match warnings {
                0 => Span::raw(""),
                count => {
                    Span::styled(format!("  {count} warnings (sluice status)"), screen.color(Color::Yellow))
                }
            },
        ]),
        Line::raw(format!(
            "in {}/s {}  out {}/s {}  dropped {}/s",
            scaled(pin, ""),
            scaled(bin, "b/s"),
            scaled(pout, ""),
            scaled(bout, "b/s"),
            scaled(picture.dropped(), "")
        )),
        Line::raw(format!(
            "sessions {} of {}, with IPv6 {} of {}  buffers {} of {}",
            scaled(number("sessions") - number("sessions_ipv6"), ""),
            scaled(number("session_capacity") - number("session_capacity_ipv6"), ""),
            count("sessions_ipv6"),
            count("session_capacity_ipv6"),
            count("buffers_in_use"),
            count("buffers")
        )),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

/// A bar for each worker: the share of time in which it had packets.
fn busy(frame: &mut Frame<'_>, area: Rect, workers: &[Value], screen: &Screen) {
    const WIDTH: usize = 40;
    let mut workers: Vec<_> = workers.iter().collect();
    workers.sort_by(|one, two| {
        let share = |worker: &Value| worker["busy_ratio"].as_f64().unwrap_or(0.0);
        share(two).total_cmp(&share(one))
    });
    workers.truncate(BARS);
    workers.sort_by_key(|worker| worker["id"].as_u64());
    let line = |worker: &&Value| {
        let share = worker["busy_ratio"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0);
        let full = (share * WIDTH as f64).round() as usize;
        let color = if share > 0.9 { Color::Red } else { Color::Green };
        Line::from(vec![
            Span::raw(format!("worker {:<2} core {:<3} [", worker["id"], worker["core"])),
            Span::styled("|".repeat(full), screen.color(color)),
            Span::raw(format!("{}] {:>3.0} %", " ".repeat(WIDTH - full), share * 100.0)),
        ])
    };
    frame.render_widget(Paragraph::new(workers.iter().map(line).collect::<Vec<_>>()), area);
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (60.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let lines: Vec<_> = HELP.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(
        Paragraph::new(lines).block(Block::new().borders(Borders::ALL).title(" help ")),
        place,
    );
}
