//! Two plots of a report: what packets cost as sessions grow, and how fast sessions are made as
//! services grow.

use plotters::prelude::*;
use serde_json::Value;
use std::path::Path;

/// One line of a plot: its name and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws `packets.svg` and `services.svg` into `folder`.
pub(crate) fn draw(report: &Value, folder: &Path) -> Result<(), String> {
    let rows = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let mut packets: Vec<Line> = Vec::new();
    for (transport, protocol, arm, key) in [
        ("pcap", "udp", "testpmd io, pcap", "io_ns_per_packet"),
        ("pcap", "udp", "testpmd 5tswap, pcap", "swap_ns_per_packet"),
        ("pcap", "udp", "FullNAT UDP, pcap", "ns_per_packet"),
        ("pcap", "tcp", "FullNAT TCP, pcap", "ns_per_packet"),
        ("in-process", "udp", "FullNAT UDP, both directions, source included", "ns_per_packet"),
    ] {
        let wanted = rows.iter().filter(|row| {
            row["case"] == "fullnat"
                && row["transport"] == transport
                && row["protocol"] == protocol
                && row["order"] == "shuffled"
        });
        let points = wanted.filter_map(|row| Some((row["sessions"].as_f64()?, row[key].as_f64()?)));
        packets.push((arm.into(), points.collect()));
    }
    let services = report["services"].as_array().map_or(&[][..], Vec::as_slice);
    let rate =
        |case: &Value| Some((case["services"].as_f64()?, 1_000.0 / case["ns_per_new_session"].as_f64()?));
    let of = |shared: bool| {
        let wanted = services.iter().filter(|case| case["shared_servers"] == shared);
        wanted.filter_map(rate).collect::<Vec<_>>()
    };
    let services = vec![
        ("two of 200 shared servers each".to_owned(), of(true)),
        ("two servers of its own each".to_owned(), of(false)),
    ];
    plot(
        &folder.join("packets.svg"),
        "ns per packet, one worker, 64-byte frames, random order",
        "live sessions",
        "ns",
        &packets,
    )?;
    plot(
        &folder.join("services.svg"),
        "new sessions per second, one worker",
        "services",
        "million/s",
        &services,
    )
}

fn plot(path: &Path, title: &str, x: &str, y: &str, lines: &[Line]) -> Result<(), String> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|point| point.0).fold(10.0, f64::max);
    let left = points().map(|point| point.0).fold(right, f64::min);
    let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.15;
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let area = SVGBackend::new(path, (860, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((left..right).log_scale(), 0.0..top)
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .draw()
        .map_err(|error| failed(&error))?;
    for (at, (name, points)) in lines.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)).point_size(4))
            .map_err(|error| failed(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))
}
