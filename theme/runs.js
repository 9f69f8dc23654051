// Filters the table of all runs; what is searched for stands in the address. Runs beyond the table's first rows are data
// and become rows when they are found; like everything out of a record, they are set as text.
(() => {
  const form = document.getElementById('run-search'), field = form.querySelector('input');
  const count = document.getElementById('runs-shown'), data = document.getElementById('runs-rest');
  const body = document.querySelector('table.runs tbody'), rows = [...body.rows];
  const numbers = [...document.querySelectorAll('table.runs thead th')].map(h => h.classList.contains('number'));
  const rest = data ? JSON.parse(data.textContent) : [], most = data ? +data.dataset.most : rows.length;
  const lower = cells => cells.join(' ').toLowerCase();
  const texts = rows.map(r => lower([...r.cells].map(c => c.textContent)));
  const textsOfRest = rest.map(cells => lower(cells.slice(0, -1)));
  const total = rows.length + rest.length, digits = n => n.toLocaleString('en');

  const make = (tag, text) => Object.assign(document.createElement(tag), {textContent: text});
  const name = (element, text) => { // of a run; it may break after / and _
    text.split(/(?<=[/_])/).forEach((part, i) => element.append(...(i ? [document.createElement('wbr'), part] : [part])));
    return element;
  };
  function rowOf(cells) {
    const [why, command, page] = cells.slice(-3), row = document.createElement('tr');
    for (const [i, text] of cells.slice(0, -3).entries()) {
      const cell = make('td', i === 0 ? '' : text);
      if (numbers[i]) cell.className = 'number';
      if (i === 0 && page) cell.append(name(Object.assign(make('a', ''), {href: page}), text));
      else if (i === 0) name(cell, text);
      row.append(cell);
    }
    const last = make('td', why);
    last.className = 'why';
    if (command) {
      const details = document.createElement('details');
      details.append(make('summary', 'command'), make('code', command));
      last.append(details);
    }
    row.append(last);
    return row;
  }

  let added = [];
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(w => w);
    const fits = text => words.every(w => text.includes(w));
    let n = 0;
    rows.forEach((r, i) => { r.hidden = !fits(texts[i]); n += !r.hidden; });
    added.forEach(r => r.remove());
    const found = rest.filter((_, i) => fits(textsOfRest[i]));
    added = found.slice(0, most - n).map(rowOf);
    body.append(...added);
    const fit = n + found.length, shown = n + added.length;
    count.textContent = shown < fit ? `${digits(shown)} of ${digits(total)} runs shown; ${digits(fit)} fit` : `${digits(shown)} of ${digits(total)} runs shown`;
  };
  const read = () => { field.value = new URLSearchParams(location.hash.slice(1)).get('q') || ''; show(); };
  const write = () => {
    const q = field.value.trim().replace(/\s+/g, ' ');
    history.replaceState(null, '', q ? '#' + new URLSearchParams({q}).toString().replace(/%2F/g, '/') : '#');
  };
  field.addEventListener('input', () => { show(); write(); });
  form.addEventListener('submit', e => e.preventDefault());
  addEventListener('hashchange', read);
  form.hidden = false;
  read();
})();
