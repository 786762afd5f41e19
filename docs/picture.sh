#!/bin/sh
# Draws terminal output as an SVG: make demo | sh docs/picture.sh > docs/demo.svg
awk '
    { gsub(/&/, "\\&amp;"); gsub(/</, "\\&lt;"); gsub(/>/, "\\&gt;"); line[NR] = $0; if (length($0) > width) width = length($0) }
    END {
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\">\n", width * 7.3 + 30, NR * 16 + 30
        print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>"
        print "<g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"12\" fill=\"#d6d9e0\" xml:space=\"preserve\">"
        for (n = 1; n <= NR; n++) {
            color = line[n] ~ /^\$ / ? " fill=\"#7fd88f\"" : line[n] ~ /^demo: every/ ? " fill=\"#f2cc60\"" : ""
            printf "<text x=\"15\" y=\"%d\"%s>%s</text>\n", n * 16 + 12, color, line[n]
        }
        print "</g>\n</svg>"
    }'
