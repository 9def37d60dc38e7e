-- Another target with each request, and another header line.
local number = 0
request = function()
  number = number + 1
  wrk.headers["Referer"] = "http://dashboard.test/pages/" .. number
  return wrk.format(nil, "/1k?page=" .. number)
end
