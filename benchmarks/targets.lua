-- Another target with each request.
local number = 0
request = function()
  number = number + 1
  return wrk.format(nil, "/1k?page=" .. number)
end
