#!/bin/sh
# The demo's page. Only builtins and /proc: every process costs tenths of a second in an emulated guest.
read -r kernel </proc/sys/kernel/osrelease
read -r host </proc/sys/kernel/hostname
read -r up _ </proc/uptime
read -r _ total _ </proc/meminfo
pod=${POD_NAME:-$host}

printf 'Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n\r\n'
printf '%s' "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>$pod, in its own microVM</title>
<style>
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --paper: #f6f7f9; --card: #fff; --line: #dfe3e8; --mark: #0b6e4f }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecf1; --soft: #9aa6b4; --paper: #12161b; --card: #1b2129; --line: #2c353f; --mark: #5fd3a8 }
}
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }
main { width: min(34rem, calc(100vw - 2rem)); background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 1.75rem; box-sizing: border-box }
h1 { font-size: 1.35rem; margin: 0 0 .25rem }
p { color: var(--soft); margin: 0 0 1.25rem }
ul { list-style: none; margin: 0; padding: 0 }
li { border-top: 1px solid var(--line); padding: .6rem 0; overflow-wrap: anywhere }
code { color: var(--mark); font-size: .95rem }
</style>
</head>
<body>
<main>
<h1>This page comes out of a pod</h1>
<p>A container has its host's kernel; a container in a microVM has its own. Compare the first line with <code>uname -r</code> on the host.</p>
<ul>
<li>guest kernel: $kernel</li>
<li>pod: $pod</li>
<li>hostname: $host</li>
<li>memory: $((total / 1024)) MiB</li>
<li>up for: ${up%%.*} s</li>
</ul>
</main>
</body>
</html>
"
