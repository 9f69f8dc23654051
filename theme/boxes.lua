-- Wide tables and equations of the prose scroll in a box of their own, which the keyboard reaches.
local function box(blocks, label)
  local attributes = {{'tabindex', '0'}, {'role', 'region'}, {'aria-label', label}} -- in this order
  return pandoc.Div(blocks, pandoc.Attr('', {'scroll'}, attributes))
end

-- MathML stretches its brackets by itself; \Bigl( and its like are more than pandoc can convert.
function Math(math)
  local text = math.text:gsub('\\[Bb]igg?l%f[%A]', '\\left'):gsub('\\[Bb]igg?r%f[%A]', '\\right')
  math.text = text:gsub('\\[Bb]igg?m?%f[%A]', '')
  return math
end

function Table(table)
  return box({table}, 'Table')
end

function Para(paragraph)
  local only = #paragraph.content == 1 and paragraph.content[1]
  if only and only.t == 'Math' and only.mathtype == 'DisplayMath' then
    return box({paragraph}, 'Equation')
  end
end
