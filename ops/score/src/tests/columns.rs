//! What columns and rows have to be.

use arrow::array::StringArray;

use super::*;

#[test]
fn lists_of_lists_have_to_be_of_the_models_shape() {
    let mut signature = doubling();
    signature.inputs[0].shape = vec![-1, 2, 2];
    let inner = |lists: &[Option<usize>]| lists.iter().map(|n| n.map(|n| vec![Some(0.5f32); n])).collect::<Vec<_>>();
    // Two lists of two; four of one; two of which one is null; one of two.
    let rows = [inner(&[Some(2), Some(2)]), inner(&[Some(1); 4]), inner(&[Some(2), None]), inner(&[Some(2)])];
    let lengths = rows.iter().map(Vec::len);
    let offsets = arrow::buffer::OffsetBuffer::<i32>::from_lengths(lengths);
    let lists = ListArray::from_iter_primitive::<Float32Type, _, _>(rows.iter().flatten().cloned());
    let item = Arc::new(Field::new_list_field(lists.data_type().clone(), true));
    let x: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(lists), None));
    let batch = RecordBatch::try_from_iter([("x", x)]).unwrap();
    let plan = plan(&batch, signature, Errors::InOutput);
    let gathering = Gathering::new(&window(&batch, &plan), &plan, None).unwrap();
    let faults: Vec<String> = gathering.faults().map(|(row, fault)| format!("{row} {}", fault.message)).collect();
    assert_eq!(
        faults,
        [
            "1 input \"x\": the row has 4 lists, the model takes 2",
            "2 input \"x\": a list within the row has 0 values, 2 are wanted",
            "3 input \"x\": the row has 1 lists, the model takes 2",
        ]
    );
}

#[test]
fn each_way_to_be_no_input_is_a_fault_of_its_row() {
    let mut signature = doubling();
    signature.inputs[0].range = Some([0.0, 1.0]);
    let lists = [
        Some(vec![Some(0.5), Some(0.5), Some(0.5)]),
        Some(vec![Some(0.5), Some(0.5)]),
        None,
        Some(vec![Some(0.5), None, Some(0.5)]),
        Some(vec![Some(0.5), Some(f32::NAN), Some(0.5)]),
        Some(vec![Some(0.5), Some(2.0), Some(0.5)]),
    ];
    let x: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists));
    let batch = RecordBatch::try_from_iter([("x", x)]).unwrap();
    let plan = plan(&batch, signature, Errors::InOutput);
    let gathering = Gathering::new(&Window { first_row: 50, ..window(&batch, &plan) }, &plan, None).unwrap();
    let faults: Vec<String> = gathering.faults().map(|(row, fault)| format!("{row} {}", fault.message)).collect();
    assert_eq!(
        faults,
        [
            "51 input \"x\": the row has 2 values, the model takes 3",
            "52 input \"x\": the row is null",
            "53 input \"x\": value 1 is null or no FP32",
            "54 input \"x\": value 1 is NaN, the model takes 0 to 1",
            "55 input \"x\": value 1 is 2, the model takes 0 to 1",
        ]
    );
    assert_eq!(gathering.pieces().count(), 1);
}

#[test]
fn columns_that_do_not_fit_are_refused_with_names() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let fraction: ArrayRef = Arc::new(Float32Array::from(vec![0.5]));
    let batch = RecordBatch::try_from_iter([("name", text), ("x", fraction)]).unwrap();
    let refuse = |signature: Signature, wish: &Wish| {
        let limits = Limits::new(&signature, 1 << 20);
        Plan::try_new(&batch.schema(), signature, limits, (wish, "", Errors::InOutput)).unwrap_err().to_string()
    };
    let mut ids = doubling();
    ids.inputs[0].datatype = Datatype::Int64;
    assert!(
        refuse(ids, &Wish::default())
            .contains("column \"x\" is Float32, input \"x\" takes INT64: fractions would be lost")
    );
    let mut other = doubling();
    other.inputs[0].name = "z".into();
    assert!(refuse(other, &Wish::default()).contains("no column \"z\" for the input of that name (--map COLUMN=z)"));
    let wish = |wish| Wish { maps: vec![wish], ..Wish::default() };
    assert!(refuse(doubling(), &wish(("q*".into(), "x".into()))).contains("no column is called \"q*\""));
    assert!(refuse(doubling(), &wish(("x".into(), "q".into()))).contains("--map names input \"q\"; the model has x"));
    let mut same = doubling();
    same.outputs[0].name = "name".into();
    assert!(refuse(same, &Wish::default()).contains("two columns \"name\""));
}
