import told

app = told.make("A")
