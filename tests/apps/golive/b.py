import told

app = told.make("B")
