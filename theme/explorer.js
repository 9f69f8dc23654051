// The explorer: chooses a cell out of the page's data and shows it. It computes no statistic and sets text as text.
(() => {
  'use strict'
  const root = document.getElementById('explorer')
  const data = JSON.parse(document.getElementById('explorer-data').textContent)
  const at = selector => root.querySelector(selector)
  if (!data.cells.length) { at('.nothing').hidden = false; return }

  const fields = Object.keys(data.names)
  const metrics = new Map(data.metrics.map(([name, words, head, unit, units]) => [name, {words, head, unit, units}]))
  data.cells.forEach((cell, i) => { cell.index = i; cell.runs_are = data.runs.slice(...cell.runs_of); for (const r of cell.runs_are) r.cell = i })
  const runs = new Map(data.runs.map(r => [r.id, r]))

  // An element with attributes, properties and children; a child that is no element becomes text.
  function make(tag, more = {}, ...children) {
    const made = document.createElement(tag)
    for (const [k, v] of Object.entries(more)) if (k in made && k !== 'list') made[k] = v; else made.setAttribute(k, v)
    made.append(...children.filter(c => c !== null && c !== undefined))
    return made
  }

  // --- the choice, from what is wanted to what there is

  const unique = values => [...new Set(values)]
  let wanted = {}, chosen = {}

  function settle() {
    const run = runs.get(wanted.run)
    if (run && !fields.some(f => f in wanted)) fields.forEach(f => { wanted[f] = data.cells[run.cell][f] })
    let left = data.cells
    const offered = {}, found = {}
    for (const f of fields) {
      const there = unique(left.map(c => c[f]))
      const begins = v => v.startsWith(`${wanted[f]},`) || v.startsWith(`${wanted[f]}·`)  // a stage is enough for `runs`, an architecture for a network
      found[f] = there.includes(wanted[f]) ? wanted[f] : there.find(begins) || there[0]
      offered[f] = data.choices[f].filter(([v]) => there.includes(v))
      left = left.filter(c => c[f] === found[f])
    }
    const cell = left[0], known = Object.keys(cell.numbers), seen = shownRuns(cell)
    const lines = data.curves.filter(([name]) => seen.some(r => r.curves[name]))
    offered.metric = data.metrics.filter(([m]) => known.includes(m))
    offered.curve = lines
    found.metric = known.includes(wanted.metric) ? wanted.metric : known[0]
    found.curve = lines.some(([name]) => name === wanted.curve) ? wanted.curve : lines.length ? lines[0][0] : null
    found.run = cell.runs_are.some(r => r.id === wanted.run) ? wanted.run : (cell.runs_are.find(r => r.status === 'complete') || cell.runs_are[0]).id
    chosen = found
    return {cell, offered, run: runs.get(found.run)}
  }

  const baselineOf = cell => cell.baseline === null ? null : data.cells[cell.baseline]
  const shownRuns = cell => [...(baselineOf(cell) ? baselineOf(cell).runs_are : []), ...cell.runs_are]

  // --- the address

  function readHash() {
    const text = location.hash.slice(1)
    if (!text.includes('=')) return false  // a link to a heading, or nothing
    wanted = Object.fromEntries(new URLSearchParams(text))
    return true
  }
  function hashOf(more) { return '#' + new URLSearchParams(Object.entries(more).filter(([, v]) => v !== null)) }
  function writeHash() {
    try { history.replaceState(null, '', hashOf(chosen)) } catch { location.hash = hashOf(chosen) }
  }

  // --- choices

  const selects = {}
  function select(name, label, parent) {
    const s = make('select', {id: `choose-${name}`, name})
    s.addEventListener('change', () => { wanted = {...chosen, ...keep(name), [name]: s.value}; show() })
    parent.append(make('label', {className: `choice-${name}`}, make('span', {}, label), s))
    selects[name] = s
  }
  // What was chosen below a choice stays wanted; of the runs, the finals come first again.
  const keep = name => fields.includes(name) && name !== 'runs' ? {runs: undefined, run: undefined} : name === 'runs' ? {run: undefined} : {}

  function offer(name, options) {
    const s = selects[name], before = [...s.options].map(o => o.value).join('\n')
    if (before !== options.map(o => o[0]).join('\n')) s.replaceChildren(...options.map(([value, words]) => make('option', {value}, words)))
    if (chosen[name] !== null) s.value = chosen[name]
    s.disabled = options.length === 0
    s.parentElement.classList.toggle('only', options.length < 2)
  }

  // --- what is shown

  function showResult(cell) {
    const metric = chosen.metric, found = cell.numbers[metric], words = metrics.get(metric).words, base = baselineOf(cell)
    const line = (big, interval, said) => make('div', {}, make('p', {className: 'number'}, make('strong', {}, big), make('span', {}, interval)), make('p', {className: 'soft'}, said))
    at('.numbers').replaceChildren(...(found.compared.length ? found.compared.map(d => line(d.text, d.interval, `${d.over}, ${words}; ${d.from}`))
      : [line(found.text, found.interval, `${words}; n = ${found.n}`)]))
    at('.words').textContent = found.sentence
    const beside = found.compared.length ? [cell, base].filter(c => c && c.numbers[metric]) : []
    const row = c => make('tr', {}, make('th', {scope: 'row'}, c.name), make('td', {}, c.numbers[metric].text), make('td', {className: 'soft'}, `n\u00a0=\u00a0${c.numbers[metric].n}`))
    at('.means').replaceChildren(...(beside.length ? [make('table', {}, make('tbody', {}, ...beside.map(row)))] : []))
  }

  function showRuns(cell) {
    const measured = data.metrics.filter(([m]) => cell.numbers[m])
    const timed = cell.runs_are.some(r => r.time)
    const head = ['Seed', 'Status', ...measured.map(([, , short, unit]) => `${short}, ${unit}`), ...(timed ? ['training'] : [])]
    const row = r => make('tr', {className: r.id === chosen.run ? 'chosen' : ''},
      make('td', {}, make('label', {}, make('input', {type: 'radio', name: 'run', value: r.id, checked: r.id === chosen.run}), ` ${r.seed}`)),
      make('td', {className: r.status === 'complete' ? '' : 'soft'}, r.status),
      ...measured.map(([m]) => make('td', {className: m === chosen.metric ? 'metric' : ''}, r.values[m])), timed ? make('td', {}, r.time || '') : null)
    const table = make('table', {}, make('caption', {}, cell.name),
      make('thead', {}, make('tr', {}, ...head.map((h, i) => make('th', {scope: 'col', className: (measured[i - 2] || [])[0] === chosen.metric ? 'metric' : ''}, h)))),
      make('tbody', {}, ...cell.runs_are.map(row)))
    table.addEventListener('change', e => { wanted = {...chosen, run: e.target.value}; show(true) })
    const few = cell.runs_are.length < cell.all && make('p', {className: 'soft'}, `The first ${cell.runs_are.length} of ${cell.all} runs, by seed, are listed and drawn; the numbers above are of all. `,
      make('a', {href: 'runs.html'}, 'Runs'), ' lists every one.')
    at('.runs').replaceChildren(...[few].filter(Boolean), make('div', {className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Runs'}, table))
  }
  function markRun() {
    for (const input of root.querySelectorAll('.runs input')) input.closest('tr').classList.toggle('chosen', input.checked = input.value === chosen.run)
  }

  const pairs = (list, name) => make('dl', {className: name}, ...list.flatMap(([k, v]) => [make('dt', {}, k), make('dd', {}, v)]))

  function showRecord(run, cell) {
    const parts = [make('p', {className: 'id'}, make('code', {}, run.id))]
    if (run.page) parts.push(make('p', {}, make('a', {href: run.page}, 'The run’s page: record and executed notebook')))
    if (run.told.length) parts.push(pairs(run.told, 'told'))
    else parts.push(make('p', {}, 'This run has left no record.'))
    parts.push(make('details', {}, make('summary', {}, 'All settings'), pairs([...cell.settings, ['seed', run.seed]], 'settings')))
    parts.push(...commandOf(run))
    at('.record').replaceChildren(...parts)
  }

  function commandOf(run) {
    if (!run.command) return [make('p', {className: 'soft'}, !run.ours ? 'These are the authors’ runs: no command of this package made them.'
      : 'No command: what the run would be is open until the selection is done, or its record is of another version.')]
    const said = make('span', {className: 'copied', role: 'status'}), button = make('button', {type: 'button'}, 'Copy')
    const pre = make('pre', {tabIndex: 0}, make('code', {}, run.command))
    button.addEventListener('click', () => copy(run.command, pre).then(done => { said.textContent = done ? 'Copied.' : 'Marked; copy it with the keyboard.' }))
    const teacher = runs.get(run.teacher)
    const needs = teacher && make('p', {className: 'soft'}, 'It needs the weights of ', make('a', {href: hashOf({run: teacher.id})}, 'its teacher'), ' in the same results folder.')
    return [make('h3', {id: 'train'}, run.status === 'complete' ? 'To train it again' : 'To train it'), make('div', {className: 'command'}, pre, make('p', {}, button, said)), needs].filter(Boolean)
  }
  async function copy(text, pre) {
    try { await navigator.clipboard.writeText(text); return true } catch { /* not allowed here: mark it instead */ }
    const marked = document.createRange()
    marked.selectNodeContents(pre)
    getSelection().removeAllRanges(); getSelection().addRange(marked)
    try { return document.execCommand('copy') } catch { return false }
  }

  // --- charts

  const colourOf = method => (data.colours[method] || data.colours.none)[isDark() ? 1 : 0]
  const isDark = () => getComputedStyle(root).getPropertyValue('--dark').trim() === '1'

  function config() {
    const style = getComputedStyle(root), ink = style.getPropertyValue('--ink-soft').trim(), line = style.getPropertyValue('--hair').trim()
    const axis = {labelColor: ink, titleColor: ink, tickColor: line, domainColor: line, gridColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 'normal'}
    return {background: 'transparent', font: style.fontFamily, view: {stroke: null}, axis, axisX: {labelFlush: true, labelOverlap: true, tickCount: root.clientWidth < 480 ? 4 : 7}, axisY: {domain: false, ticks: false, tickCount: 5}}
  }
  const drawn = {}
  let turn = 0
  async function draw(place, name, values, alt, title) {
    const box = at(place), mine = ++turn
    drawn[place] = mine
    if (!values.length) { box.replaceChildren(); box.hidden = true; return }
    box.hidden = false
    box.setAttribute('role', 'img'); box.setAttribute('aria-label', alt)
    const canvas = make('div', {className: 'canvas'})
    box.replaceChildren(canvas)
    const spec = {...structuredClone(data.charts[name]), data: {values}}
    if (name === 'gains') {
      spec.height = spec.height.step*values.length
      if (box.clientWidth < 480) spec.encoding.y.axis.labelLimit = 170
      for (const layer of spec.layer.slice(1)) layer.encoding.x.title = title
      if (values.every(v => v.low === null)) spec.layer.splice(1, 1)  // no interval to draw
    }
    if (name === 'curves' && new Set(values.map(v => v.epoch)).size < 5) spec.layer[0].mark.point = {size: 50}  // a line of one epoch is not seen
    const made = await vegaEmbed(canvas, spec, {mode: 'vega-lite', actions: false, renderer: 'svg', config: config(), tooltip: {theme: isDark() ? 'dark' : 'light'}})
    canvas.querySelector('svg')?.setAttribute('aria-hidden', 'true')  // the box says what it shows
    if (drawn[place] !== mine) made.finalize()
  }

  function showGains(cell) {
    const beside = data.cells.filter(c => c === cell || (c.profile === cell.profile && c.planned && c.stage === 'final' && c.baseline !== null))
    const over = c => ((c.numbers[chosen.metric] || {}).compared || [])[0]
    const same = beside.filter(c => over(c) && over(cell) && over(c).over === over(cell).over)
    const label = c => c.brief && same.filter(o => o.brief === c.brief).length === 1 ? c.brief : c.name
    const values = same.map(c => ({...over(c), name: label(c), chosen: c === cell, colour: colourOf(c.method)}))
    const title = values.length ? `${over(cell).over.split(',')[0]}, ${metrics.get(chosen.metric).units}` : ''
    draw('.gains', 'gains', values, `${title}: ${values.map(v => `${v.name} ${v.text} ${v.interval}`).join('; ')}`, title)
  }

  function showCurves(cell, run) {
    const name = chosen.curve, base = baselineOf(cell)
    const lines = name ? shownRuns(cell).filter(r => r.curves[name]) : []
    const colour = r => colourOf(data.cells[r.cell].method)
    const who = r => `${data.cells[r.cell].name}, seed ${r.seed}`
    const values = lines.flatMap(r => r.curves[name].map((value, i) => ({epoch: i + 1, value, run: r.id, who: who(r), colour: colour(r), chosen: r.id === run.id})))
    const last = r => r.curves[name].findLast(v => v !== null)
    const words = name ? data.curves.find(([n]) => n === name)[1] : ''
    draw('.lines', 'curves', values, `${words} over the epochs; at the last: ${lines.map(r => `${who(r)}: ${last(r)}`).join('; ')}`)
    const count = c => c.runs_are.filter(r => r.curves[name]).length
    const amount = c => c.runs_are.length < c.all ? `${count(c)} of ${c.all} runs` : `${count(c)} ${count(c) === 1 ? 'run' : 'runs'}`
    const entry = c => make('span', {}, make('i', {style: `background:${colourOf(c.method)}`}), `${c.name}, ${amount(c)}`)
    at('.legend').replaceChildren(...(lines.length ? [cell, base].filter(c => c && count(c)).map(entry) : [make('span', {className: 'soft'}, 'No run has curves.')]))
    at('.over').hidden = !lines.length
  }

  function show(onlyRun = false) {
    const {cell, offered, run} = settle()
    for (const name of Object.keys(selects)) offer(name, offered[name])
    writeHash()
    if (onlyRun) markRun()
    else { showResult(cell); showGains(cell); showRuns(cell) }
    showCurves(cell, run)
    showRecord(run, cell)
  }

  for (const f of fields) select(f, data.names[f], at('.choices'))
  select('metric', 'Metric', at('.choices'))
  select('curve', 'Over the epochs', at('.over'))
  at('.choices').addEventListener('submit', e => e.preventDefault())
  readHash()
  at('.app').hidden = false
  show()
  addEventListener('hashchange', () => { if (readHash()) show() })
  const redraw = () => { const {cell, run} = settle(); showGains(cell); showCurves(cell, run) }
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw)
  new MutationObserver(redraw).observe(document.body, {attributeFilter: ['class']})
})()
