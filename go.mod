module croft

go 1.26.0
