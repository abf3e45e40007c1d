module oncewire.example/bench

go 1.21
